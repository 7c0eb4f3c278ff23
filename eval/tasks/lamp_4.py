"""LaMP-4, news headline: how would this journalist title the article?

    {"id": "400", "input": "Generate a headline for the following article: <A>",
     "profile": [{"id": "4000", "title": "...", "text": "..."}]}      gold: the headline

LaMP retrieves over title and text. The interaction's query is the text alone, because the title is
the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, field
from program.answers import Text
from program.memory.interaction import Interaction
from program.task import Item


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(field(item, "text"), field(item, "title"))


def _retrieval_text(interaction: Interaction) -> str:
    return f"{interaction.response} {interaction.query}".strip()


TASK = LampTask(
    name="LaMP-4",
    question="Generate a headline for the following article:",
    answer=Text(),
    read_item=_read_item,
    read_query=after("article:"),
    item_noun="news article",
    response_noun="headline",
    metrics=("rouge-1", "rouge-L"),
    file_names=("LaMP_4",),
    folder="LaMP_4",
    item_fields=("title", "text"),
    lead="Generate a headline for the following article: ",
    profile_line='"{response}" is the title for "{text}" ',
    retrieval_text=_retrieval_text,
)
