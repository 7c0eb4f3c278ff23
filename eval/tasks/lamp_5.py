"""LaMP-5, paper title: how would this author title the abstract?

    {"id": "500", "input": "Generate a title for the following abstract of a paper: <A>",
     "profile": [{"id": "5000", "title": "...", "abstract": "..."}]}      gold: the title

LaMP retrieves over title and abstract. The interaction's query is the abstract alone, because the
title is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, appended, field
from program.answers import Text
from program.memory.interaction import Interaction
from program.task import Item


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(field(item, "abstract"), field(item, "title"))


def _retrieval_text(interaction: Interaction) -> str:
    return f"{interaction.response} {interaction.query}".strip()


TASK = LampTask(
    name="LaMP-5",
    question="Generate a title for the following abstract of a paper:",
    answer=Text(),
    read_item=_read_item,
    read_query=after("paper:"),
    item_noun="paper abstract",
    response_noun="title",
    metrics=("rouge-1", "rouge-L"),
    file_names=("LaMP_5",),
    folder="LaMP_5",
    item_fields=("title", "abstract"),
    lead="Generate a title for the following abstract of a paper: ",
    profile_line='"{response}" is a title for "{text}" ',
    retrieval_text=_retrieval_text,
    profile_prompt=appended(". Following the given patterns "),
)
