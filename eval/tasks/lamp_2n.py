"""LaMP-2N, news category (LaMP-2 until March 2024): in which section does the article appear?

    {"id": "200", "input": "Which category does this article relate to among the following
     categories? ... categories: [travel, ...] article: <A>",
     "profile": [{"id": "2000", "title": "...", "text": "...", "category": "sports"}]}  gold: "sports"

The prompt and the scorer list the labels in different orders.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, field
from program.answers import Labels
from program.memory.interaction import Interaction
from program.task import Item

_CATEGORIES = (
    "travel",
    "education",
    "parents",
    "style & beauty",
    "entertainment",
    "food & drink",
    "science & technology",
    "business",
    "sports",
    "healthy living",
    "women",
    "politics",
    "crime",
    "culture & arts",
    "religion",
)
_SCORER_ORDER = (
    "food & drink",
    "sports",
    "education",
    "parents",
    "religion",
    "travel",
    "business",
    "crime",
    "science & technology",
    "culture & arts",
    "entertainment",
    "politics",
    "women",
    "style & beauty",
    "healthy living",
)
_QUESTION = (
    "Which category does this article relate to among the following categories? "
    f"Just answer with the category name without further explanation. categories: [{', '.join(_CATEGORIES)}]"
)


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(f"{field(item, 'title')} {field(item, 'text')}".strip(), field(item, "category"))


def _article(interaction: Interaction) -> str:
    return interaction.metadata.get("text", interaction.query)


TASK = LampTask(
    name="LaMP-2N",
    question=_QUESTION,
    answer=Labels(_CATEGORIES),
    read_item=_read_item,
    read_query=after("article:"),
    item_noun="news article",
    response_noun="category",
    metrics=("accuracy", "f1"),
    file_names=("LaMP_2N", "LaMP_2"),
    folder="LaMP_2",
    item_fields=("title", "text", "category"),
    lead=f"{_QUESTION} article: ",
    scorer_labels=_SCORER_ORDER,
    profile_line='the category for the article: "{text}" is "{response}" ',
    profile_text=_article,
)
