r"""LaMP-1, citation: which of two references does this author's paper cite?

    {"id": "310", "input": "For an author who has written the paper with the title \"<T>\", which
     reference is related? Just answer with [1] or [2] without explanation. [1]: \"<A>\" [2]: \"<B>\"",
     "profile": [{"id": "3100", "title": "...", "abstract": "..."}]}      gold: "[1]"

A profile item is a paper, not a question; OPPU's files add a title that it cites. `pairs` turns it
into an alignment question: the cited title against one that this author never cites.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.tasks.base import LampTask, field
from eval.tasks.titles import PUBLIC_TITLES
from program.answers import Labels, Text
from program.errors import DataError
from program.memory.interaction import Interaction
from program.task import Item, Pair

_INPUT = re.compile(
    r'with the title "(?P<title>.*)", which reference .*?\[1\]: "(?P<first>.*)" \[2\]: "(?P<second>.*)"',
    re.DOTALL,
)
_QUERY = re.compile(r'paper: "(?P<title>.*)" \[1\]: "(?P<first>.*)" \[2\]: "(?P<second>.*)"', re.DOTALL)


def question_text(title: str, first: str, second: str) -> str:
    """Return the query text: the paper and the two options."""
    return f'paper: "{title}" [1]: "{first}" [2]: "{second}"'


def options(query: str) -> tuple[str, str]:
    """Return the titles of options ``[1]`` and ``[2]`` of a query text.

    Raises:
        DataError: The text is not a LaMP-1 query.
    """
    return _parts(query)[1:]


def _parts(query: str) -> tuple[str, str, str]:
    match = _QUERY.search(query)
    if match is None:
        raise DataError('a LaMP-1 query must have the form `paper: "..." [1]: "..." [2]: "..."`')
    return match["title"], match["first"], match["second"]


def _read_item(item: Mapping[str, str]) -> Item:
    text = f"{field(item, 'title')} {field(item, 'abstract')}".strip()
    return Item(text, str(item.get("citation", "")).strip())


def _read_query(text: str) -> str:
    match = _INPUT.search(text)
    if match is None:
        raise DataError(
            "field `input` has no title with two options `[1]` and `[2]`; is this a file of another task?"
        )
    return question_text(match["title"], match["first"], match["second"])


def _title(interaction: Interaction) -> str:
    return interaction.metadata.get("title", interaction.query)


def _pairs(history: Sequence[Interaction], negatives: Sequence[str], rng: random.Random) -> list[Pair]:
    cited = {interaction.response for interaction in history}
    pool = sorted(set(negatives or PUBLIC_TITLES) - cited)
    if not pool:
        return []
    pairs = []
    for interaction in history:
        if interaction.response:
            titles = [interaction.response, rng.choice(pool)]
            rng.shuffle(titles)
            answer = f"[{titles.index(interaction.response) + 1}]"
            pairs.append(Pair(interaction, question_text(_title(interaction), *titles), answer))
    return pairs


def _profile_prompt(lines: Sequence[str], text: str) -> str:
    # LaMP inserts the profile right after the first word `title`; the quoted title follows it.
    head, _, tail = text.partition("title")
    return f"{head}title{''.join(', and ' + line for line in lines)}{tail}" if tail else text


@dataclass(frozen=True, kw_only=True)
class _Citation(LampTask):
    def full_input(self, query: str) -> str:
        title, first, second = _parts(query)
        return (
            f'For an author who has written the paper with the title "{title}", which reference is related? '
            f'Just answer with [1] or [2] without explanation. [1]: "{first}" [2]: "{second}"'
        )

    def item_keys(self, interaction: Interaction) -> set[str]:
        return {_title(interaction).lower()}

    def query_keys(self, query: str, gold: str | None) -> set[str]:
        match = _QUERY.search(query)
        return {match["title"].lower()} if match else set()


TASK: LampTask = _Citation(
    name="LaMP-1",
    question="For an author who has written the paper with the given title, which reference is related? "
    "Just answer with [1] or [2] without explanation.",
    answer=Labels(("[1]", "[2]")),
    history_answer=Text(allow_empty=True),
    read_item=_read_item,
    read_query=_read_query,
    item_noun="paper",
    response_noun="cited title",
    pairs=_pairs,
    metrics=("accuracy", "f1"),
    file_names=("LaMP_1",),
    folder="LaMP_1",
    item_fields=("title", "abstract"),
    lead="For an author who has written the paper with the title ",
    profile_line='"{text}"',
    profile_text=_title,
    profile_prompt=_profile_prompt,
    retrieval_query=lambda query: " ".join(options(query)),
)
