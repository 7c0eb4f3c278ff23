"""LaMP-7, tweet paraphrase: how would this user say it?

    {"id": "700", "input": "Paraphrase the following tweet without any explanation before or after it: <T>",
     "profile": [{"id": "7000", "text": "..."}]}      gold: the tweet

A profile item is only the user's tweet, without the plain version that a question would hold.
There is nothing to align on, so `pairs` returns an empty list.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from eval.tasks.base import LampTask, after, appended, field
from program.answers import Text
from program.memory.interaction import Interaction
from program.task import Item, Pair

_QUESTION = "Paraphrase the following tweet without any explanation before or after it:"


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(field(item, "text"), field(item, "text"))


def _no_pairs(history: Sequence[Interaction], negatives: Sequence[str], rng: random.Random) -> list[Pair]:
    return []


TASK = LampTask(
    name="LaMP-7",
    question=_QUESTION,
    answer=Text(),
    read_item=_read_item,
    read_query=after("after it:"),
    item_noun="tweet",
    response_noun="tweet",
    pairs=_no_pairs,
    metrics=("rouge-1", "rouge-L"),
    file_names=("LaMP_7",),
    folder="LaMP_7",
    item_fields=("text",),
    lead=f"{_QUESTION} ",
    profile_line='"{text}" ',
    profile_prompt=appended(" are written by a person. Following the given patterns "),
)
