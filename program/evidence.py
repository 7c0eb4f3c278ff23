"""Facts about a user that code computes from the visible history; each names what it rests on.

A fact is one line that stands alone. Users' texts are data: a line holds numbers, the labels of the task
and single words or short phrases, never a run of more than four words of one text.
"""

from __future__ import annotations

import math
import statistics
import weakref
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, compress, pairwise

import regex

from program.answers import AnswerType, Labels, Rating, Text, fits
from program.memory.interaction import Interaction
from program.memory.semantic import RECENT, count_facts, render_facts
from program.task import Task
from program.text import one_line
from program.text_safety import printable, repair

MAX_CHARS = 240
"""Longest line, in characters."""

_MAX_RUN = 4
"""Most words in a row that a line may share with one text."""

_MAX_WORDS = 8
"""Most words of a ``words`` line."""

_MIN_SUPPORT = 2
"""Fewest interactions that must hold a word, an opener or a phrase."""

_MIN_STYLE = 3
"""Fewest texts that show a style."""

_READ_CHARS = 2000
"""Of a longer text only the beginning is read."""

_MAX_OPENERS = 4
_MAX_PHRASES = 6
_MAX_WORD_CHARS = 24
_MAX_LABEL_CHARS = 40

_PRIOR_SHARE = 0.2
"""Size of the Dirichlet prior, as a share of all words that were counted."""

_MIN_Z = 0.5
"""Lowest z-score of a word of average length."""

_COMMON = 0.1
"""A word in this share of the other items, or more, sets nothing apart."""

_LUCK = 0.025
"""Chance of a change at least as large if the order of the answers meant nothing."""

_PLAIN_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_TOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['\u2019][\p{L}\p{M}]+)*")
_UNSPACED = regex.compile(
    r"[ー\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}"
    r"\p{Script=Myanmar}]"
)
_HIDDEN = regex.compile(r"\p{Default_Ignorable_Code_Point}")
_LETTER = regex.compile(r"\p{L}")
_MARKS = (
    ("a question mark", regex.compile(r"[?\uff1f\u061f\u055e]")),
    ("an exclamation mark", regex.compile(r"[!\uff01\u055c]")),
    ("a colon", regex.compile(r"[:\uff1a]")),
    ("an emoji", regex.compile(r"[\p{Extended_Pictographic}--[\p{ASCII}\xa9\xae\u2122]]", regex.V1)),
)
_PERIOD = regex.compile(r"(?<!\.)[.\u3002\uff0e\uff61\u0964\u06d4\u0589]$")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A fact about a user, computed by code: one line, with the interactions that it rests on.

    Attributes:
        key: Unique for the user: the kind, or the kind and a detail (``words:comedy``).
        text: One line.
        interaction_ids: The interactions that show it, in time order.
        n: Number of interactions that it speaks of. A line may rest on some of them: of eight
            comedies, five hold one of the words.

    Example:
        >>> line = Evidence(key="words:comedy", text="...", interaction_ids=("3", "9"), n=8)
        >>> line.kind
        'words'
    """

    key: str
    text: str
    interaction_ids: tuple[str, ...]
    n: int

    @property
    def kind(self) -> str:
        """The part of `key` before the colon."""
        return self.key.partition(":")[0]


def collect(history: Sequence[Interaction], task: Task) -> list[Evidence]:
    """Return what ``history`` shows about its user; an empty list if it is empty.

    Responses that the task does not allow are left out.

    Determinism: depends on nothing but the arguments.

    Args:
        history: The visible interactions, in time order.
        task: What the user is asked; the type of the history's responses decides what is computed.

    Example:
        >>> from program import get_task
        >>> past = [
        ...     Interaction(id=f"{n}", user_id="ana", query=query, response=tag)
        ...     for n, (query, tag) in enumerate(
        ...         [
        ...             ("A wedding in Rome", "comedy"),
        ...             ("Two thieves in Paris", "action"),
        ...             ("A wedding goes wrong", "comedy"),
        ...         ]
        ...     )
        ... ]
        >>> for line in collect(past, get_task("LaMP-2M")):
        ...     print(line.text, line.interaction_ids)
        This user has answered 3 times. Most frequent answers: comedy (2), action (1). ('0', '1', '2')
        This user's "comedy" items often mention: wedding. ('0', '2')
    """
    kind = task.response_type
    items = [item for item in history if fits(kind, item.response)]
    if not items:
        return []
    if not isinstance(kind, Text):
        items = [replace(item, response=kind.parse(item.response)) for item in items]
    evidence = [_counts(items, kind)]
    if isinstance(kind, Labels):
        evidence += [*_changed_labels(items), *_words_of_labels(items)]
    elif isinstance(kind, Rating):
        evidence += [*_ratings(items, kind), *_changed_rating(items, kind), *_words_of_ratings(items)]
    else:
        evidence += _style(
            [item for item in items if item.response.strip()],
            f"This user's {task.response_noun}",
            writes=isinstance(task.answer, Text),
        )
    return evidence


def plain_label(text: str) -> str:
    r"""Return a label as a line may hold it: short, on one line, without control characters.

    Example:
        >>> plain_label('"noir"\n## system')
        "'noir' ## system"
    """
    return one_line(printable(repair(text).replace("\n", " ")).replace('"', "'"), _MAX_LABEL_CHARS)


def _counts(items: Sequence[Interaction], kind: AnswerType) -> Evidence:
    facts = replace(count_facts(items, kind), mean=None, spread=None)
    counts = [(plain_label(answer), count) for answer, count in facts.counts]
    text = ""
    for shown in range(len(counts), -1, -1):
        lines = render_facts(replace(facts, counts=tuple(counts[:shown])), recent=False)
        text = " ".join(lines.splitlines())
        if len(text) <= MAX_CHARS:
            break
    return Evidence(key="counts", text=text, interaction_ids=_ids(items), n=len(items))


def _split_words(text: str) -> list[str]:
    # The package of the retrievers imports numpy.
    from program.memory.retrieval.words import split_words

    return split_words(text)


# By the identity of interactions, which cannot be hashed; an entry ends with its interaction.
_query_words: dict[int, tuple[weakref.ref[Interaction], list[str]]] = {}


def _words_of_query(item: Interaction) -> list[str]:
    """Return the words of a query; they are split once, since each prompt counts its evidence anew."""
    key = id(item)
    known = _query_words.get(key)
    if known is None or known[0]() is not item:
        reference = weakref.ref(item, lambda _: _query_words.pop(key, None))
        known = _query_words[key] = (reference, _split_words(item.query[:_READ_CHARS]))
    return known[1]


def _ids(items: Iterable[Interaction]) -> tuple[str, ...]:
    return tuple(item.id for item in items)


# What changed lately.


def _changed_labels(items: Sequence[Interaction]) -> Iterator[Evidence]:
    before, latest = items[:-RECENT], items[-RECENT:]
    if len(before) < RECENT:
        return
    earlier = Counter(item.response for item in before)
    changes = []
    answers: set[str] = set()
    for label, count in Counter(item.response for item in latest).most_common():
        total = earlier[label] + count
        if count >= _MIN_SUPPORT and _luck(count, total, len(items)) <= _LUCK:
            answers.add(label)
            old = f"{earlier[label]} of {len(before)} before" if earlier[label] else "new"
            changes.append(f'"{plain_label(label)}" {count} of {RECENT} ({old})')
    if changes:
        yield Evidence(
            key="lately",
            text=f"More often in the latest {RECENT} of {len(items)} answers: {', '.join(changes)}.",
            interaction_ids=_ids(item for item in latest if item.response in answers),
            n=len(items),
        )


def _luck(count: int, total: int, n: int) -> float:
    """Return how probable it is that the latest answers hold ``count`` or more of ``total`` by chance."""
    ways = sum(math.comb(total, k) * math.comb(n - total, RECENT - k) for k in range(count, RECENT + 1))
    return ways / math.comb(n, RECENT)


def _changed_rating(items: Sequence[Interaction], kind: Rating) -> Iterator[Evidence]:
    ratings = [int(item.response) for item in items]
    before, latest = ratings[:-RECENT], ratings[-RECENT:]
    if len(before) < RECENT:
        return
    change = statistics.fmean(latest) - statistics.fmean(before)
    error = statistics.stdev(ratings) * math.sqrt(1 / len(latest) + 1 / len(before))
    if abs(change) >= (kind.high - kind.low) / 8 and abs(change) >= 2 * error:
        yield Evidence(
            key="lately",
            text=f"The latest {RECENT} of {len(items)} ratings are {'higher' if change > 0 else 'lower'}: "
            f"mean {statistics.fmean(latest):.2f}, before {statistics.fmean(before):.2f}.",
            interaction_ids=_ids(items[-RECENT:]),
            n=len(items),
        )


# Words that set groups of items apart.


def _words_of_labels(items: Sequence[Interaction]) -> Iterator[Evidence]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.response].append(index)
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[1]))
    yield from _words_lines(
        (
            (f"words:{label}", f'This user\'s "{plain_label(label)}" items often mention: ', members)
            for label, members in largest
        ),
        items,
    )


def _ratings(items: Sequence[Interaction], kind: Rating) -> Iterator[Evidence]:
    facts = count_facts(items, kind)
    counts = dict(facts.counts)
    mean = render_facts(replace(facts, counts=()), recent=False).splitlines()[-1]
    extremes = ", ".join(
        f"{counts.get(str(end), 0)} of {len(items)} are {end}" for end in (kind.high, kind.low)
    )
    yield Evidence(key="ratings", text=f"{mean} {extremes}.", interaction_ids=_ids(items), n=len(items))


def _words_of_ratings(items: Sequence[Interaction]) -> Iterator[Evidence]:
    """Compare the items half a point or more below the mean, and above it, with the others."""
    ratings = [int(item.response) for item in items]
    mean = Fraction(sum(ratings), len(ratings))
    low, high = math.floor(mean - Fraction(1, 2)), math.ceil(mean + Fraction(1, 2))
    yield from _words_lines(
        (
            (f"words:{name}", f"Items that this user rates {name} ({bound}) often mention: ", members)
            for name, bound, members in (
                ("low", f"{low} or less", [index for index, rating in enumerate(ratings) if rating <= low]),
                (
                    "high",
                    f"{high} or more",
                    [index for index, rating in enumerate(ratings) if rating >= high],
                ),
            )
        ),
        items,
    )


def _words_lines(
    groups: Iterable[tuple[str, str, Sequence[int]]], items: Sequence[Interaction]
) -> Iterator[Evidence]:
    """Make a line of each group: its key, the beginning of the line, and the positions of its items."""
    texts = [_words_of_query(item) for item in items]
    held = [set(text) for text in texts]
    everywhere = Counter(chain.from_iterable(held))
    for key, heading, members in groups:
        n_others = len(items) - len(members)
        if len(members) < _MIN_SUPPORT or not n_others:
            continue
        own = Counter(chain.from_iterable(held[index] for index in members))
        words = distinguishing_words(own, everywhere, n_others)
        shown = _within(heading, words, _neighbours(texts[index] for index in members))
        if shown:
            yield Evidence(
                key=key,
                text=f"{heading}{', '.join(shown)}.",
                interaction_ids=_ids(items[index] for index in members if not held[index].isdisjoint(shown)),
                n=len(members),
            )


def distinguishing_words(own: Counter[str], everywhere: Counter[str], n_others: int) -> list[str]:
    """Return the words that set a group of texts apart from the others, best first.

    Words are ranked by the z-score of their log-odds under an informative Dirichlet prior, which is
    their frequency in all texts (Monroe, Colaresi and Quinn 2008, "Fightin' Words"). No list of stop
    words is needed, for no language: a word that is common in the other texts is left out, and the
    shorter a word, the higher a z-score it needs, because the words that every text needs are short
    (Zipf's law of abbreviation).

    Args:
        own: How many texts of the group hold each word.
        everywhere: How many of all texts hold it.
        n_others: Number of texts outside the group.

    Example:
        >>> weddings, heist = ["a big wedding", "a wedding"], "a heist"
        >>> own = Counter(word for text in weddings for word in text.split())
        >>> distinguishing_words(own, own + Counter(heist.split()), 1)
        ['wedding']
    """
    n_own = own.total()
    n_other = everywhere.total() - n_own
    # One count is for all words that no text holds.
    prior = _PRIOR_SHARE * (n_own + n_other + 1)
    usual_chars = _usual_chars(own)
    ranked = []
    for word, count in own.items():
        if count < _MIN_SUPPORT or not 1 < len(word) <= _MAX_WORD_CHARS or not _PLAIN_WORD.fullmatch(word):
            continue
        other = everywhere[word] - count
        if other > 1 and other >= _COMMON * n_others:
            continue
        z = z_score(count, other, n_own, n_other, weight=_PRIOR_SHARE * everywhere[word], prior=prior)
        if z >= _MIN_Z * (usual_chars / len(word)) ** 3:
            ranked.append((-z, word))
    return [word for _, word in sorted(ranked)]


def z_score(own: float, other: float, n_own: float, n_other: float, *, weight: float, prior: float) -> float:
    """Return how surely a word is more frequent in a group than outside, in standard errors.

    Args:
        own: Count of the word in the group.
        other: Count of the word outside.
        n_own: Count of all words in the group.
        n_other: Count of all words outside.
        weight: The word's share of the prior's counts.
        prior: All counts of the prior.
    """
    own, other = own + weight, other + weight
    odds = math.log(own / (n_own + prior - own)) - math.log(other / (n_other + prior - other))
    return odds / math.sqrt(1 / own + 1 / other)


def _usual_chars(words: Iterable[str]) -> float:
    """Return the mean length of some different words; one character is no word in scripts without spaces."""
    sizes = [len(word) for word in words if len(word) > 1]
    return statistics.fmean(sizes) if sizes else 1.0


def _neighbours(texts: Iterable[Sequence[str]]) -> set[tuple[str, str]]:
    return {pair for text in texts for pair in pairwise(text)}


def _within(heading: str, parts: Iterable[str], neighbours: Container[tuple[str, str]]) -> list[str]:
    """Return the first parts that fit in a line, without those that would copy a long run of a text.

    Args:
        heading: The beginning of the line.
        parts: What it lists, best first.
        neighbours: All pairs of words that follow each other in a text.
    """
    kept: list[str] = []
    last, run = "", 0
    room = MAX_CHARS - len(heading) - 1
    for part in parts:
        words = _split_words(part)
        longest = length = run
        for first, second in pairwise([last, *words]):
            length = length + 1 if (first, second) in neighbours else 1
            longest = max(longest, length)
        if longest > _MAX_RUN:
            continue
        room -= len(part) + 2
        if room < 0 or len(kept) == _MAX_WORDS:
            break
        kept.append(part)
        last, run = words[-1], length
    return kept


# The style of texts.


def _style(items: Sequence[Interaction], subject: str, *, writes: bool) -> Iterator[Evidence]:
    """Describe the texts of ``items``; form only if the agent ``writes`` such texts, too."""
    if len(items) < _MIN_STYLE:
        return
    texts = [_HIDDEN.sub("", repair(item.response))[:_READ_CHARS].strip() for item in items]
    tokens = [_TOKEN.findall(text) for text in texts]
    neighbours = _neighbours(map(_split_words, texts))
    if writes:
        yield from _length(items, texts, tokens, subject)
        yield from _case(items, tokens, subject)
        yield from _punctuation(items, texts, subject)
        yield from _openers(items, tokens, neighbours, subject)
    yield from _phrases(items, tokens, neighbours, subject)


def _length(
    items: Sequence[Interaction], texts: Sequence[str], tokens: Sequence[Sequence[str]], subject: str
) -> Iterator[Evidence]:
    letters = sum(len(_LETTER.findall(text)) for text in texts)
    unspaced = 2 * sum(len(_UNSPACED.findall(text)) for text in texts) > letters
    sizes = [len(text) for text in texts] if unspaced else [len(words) for words in tokens]
    middle = round(statistics.median(sizes))
    yield Evidence(
        key="style:length",
        text=f"{subject} has about {middle} {'characters' if unspaced else 'words'} "
        f"({min(sizes)} to {max(sizes)}).",
        interaction_ids=_ids(items),
        n=len(items),
    )


def _case(items: Sequence[Interaction], tokens: Sequence[Sequence[str]], subject: str) -> Iterator[Evidence]:
    cases = [_case_of(words) for words in tokens]
    counts = Counter(filter(None, cases))
    if counts.total() < _MIN_STYLE:
        return
    case, count = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    if 2 * count > counts.total():
        yield Evidence(
            key="style:case",
            text=f"{subject} is in {case}: {count} of {counts.total()}.",
            interaction_ids=_ids(item for item, own in zip(items, cases, strict=True) if own == case),
            n=counts.total(),
        )


def _case_of(words: Sequence[str]) -> str:
    """Return the case of a text; empty if it has none or is too short to tell."""
    cased = [word for word in words if word.lower() != word.upper()]
    if sum(map(len, cased)) < 2:
        return ""
    if all(word == word.lower() for word in cased):
        return "lower case"
    if all(word == word.upper() for word in cased):
        return "capitals"
    # Title case leaves short words small.
    rest = [word for word in cased[1:] if len(word) > 3] or cased[1:]
    if not rest:
        return ""
    capital = sum(word[0] != word[0].lower() for word in rest)
    return "title case" if capital >= 0.8 * len(rest) else "sentence case"


def _punctuation(items: Sequence[Interaction], texts: Sequence[str], subject: str) -> Iterator[Evidence]:
    n_period = sum(_PERIOD.search(text) is not None for text in texts)
    found = [f"ends with a period in {n_period} of {len(texts)}"]
    for name, mark in _MARKS:
        count = sum(mark.search(text) is not None for text in texts)
        if count >= max(_MIN_SUPPORT, 0.1 * len(texts)):
            found.append(f"has {name} in {count}")
    yield Evidence(
        key="style:punctuation",
        text=f"{subject} {', '.join(found)}.",
        interaction_ids=_ids(items),
        n=len(items),
    )


def _openers(
    items: Sequence[Interaction],
    tokens: Sequence[Sequence[str]],
    neighbours: Container[tuple[str, str]],
    subject: str,
) -> Iterator[Evidence]:
    first = [_opener(words[0]) if words else "" for words in tokens]
    least = max(_MIN_SUPPORT, 0.05 * len(items))
    counts = {word: count for word, count in Counter(filter(None, first)).items() if count >= least}
    heading = f"{subject} may start with: "
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:_MAX_OPENERS]
    words = _within(heading, (f"{word} ({counts[word]})" for word in ranked), neighbours)
    if words:
        shown = {word.rpartition(" ")[0] for word in words}
        yield Evidence(
            key="style:openers",
            text=f"{heading}{', '.join(words)}.",
            interaction_ids=_ids(item for item, word in zip(items, first, strict=True) if word in shown),
            n=len(items),
        )


def _opener(word: str) -> str:
    word = word.casefold()
    if _UNSPACED.search(word):
        return word[:2]
    return word if len(word) <= _MAX_WORD_CHARS else ""


def _phrases(
    items: Sequence[Interaction],
    tokens: Sequence[Sequence[str]],
    neighbours: Container[tuple[str, str]],
    subject: str,
) -> Iterator[Evidence]:
    folded = [[word.casefold() for word in words] for words in tokens]
    single = Counter(word for words in folded for word in set(words))
    usual_chars = _usual_chars(single)
    held = [set(_ngrams(words)) for words in folded]
    least = max(_MIN_SUPPORT, 0.03 * len(items))
    ranked = []
    for phrase, count in Counter(phrase for phrases in held for phrase in phrases).items():
        if count < least:
            continue
        # Words that are merely frequent meet by chance.
        chance = len(items) * math.prod(single[word] / len(items) for word in phrase)
        shortest = min(len(phrase[0]), len(phrase[-1]))
        if len(phrase) == 1 or count >= 2 * chance * (usual_chars / shortest) ** 3:
            ranked.append((-count, -len(phrase), -len(phrase[0]), phrase))
    kept: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for *_, phrase in sorted(ranked):
        words = _split_words(" ".join(phrase))
        if taken.isdisjoint(words):
            kept[" ".join(phrase)] = phrase
            taken.update(words)
    heading = f"{subject} may hold: "
    shown = _within(heading, list(kept)[:_MAX_PHRASES], neighbours)
    if shown:
        listed = {kept[phrase] for phrase in shown}
        yield Evidence(
            key="style:phrases",
            text=f"{heading}{', '.join(shown)}.",
            interaction_ids=_ids(
                item for item, own in zip(items, held, strict=True) if not listed.isdisjoint(own)
            ),
            n=len(items),
        )


def _ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield runs of 2 and 3 words; in scripts without spaces, runs of 3 and 4 characters."""
    unspaced = [not word.isascii() and _UNSPACED.search(word) is not None for word in words]
    barred = [apart or len(word) > _MAX_WORD_CHARS for apart, word in zip(unspaced, words, strict=True)]
    for size in (2, 3):
        for start in range(len(words) - size + 1):
            if not any(barred[start : start + size]):
                yield tuple(words[start : start + size])
    for word in compress(words, unspaced):
        for size in (3, 4):
            for start in range(len(word) - size + 1):
                yield (word[start : start + size],)
