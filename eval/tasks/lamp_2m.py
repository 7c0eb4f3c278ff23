"""LaMP-2M, movie tag (LaMP-2 since March 2024): which of 15 tags would this user give the film?

{"id": "200", "input": "Which tag does this movie relate to among the following tags? ...
 tags: [sci-fi, ...] description: <D>",
 "profile": [{"id": "2000", "tag": "comedy", "description": "..."}]}      gold: "comedy"
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, field
from program.answers import Labels
from program.task import Item

_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
_QUESTION = (
    "Which tag does this movie relate to among the following tags? "
    f"Just answer with the tag name without further explanation. tags: [{', '.join(_TAGS)}]"
)


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(field(item, "description"), field(item, "tag"))


TASK = LampTask(
    name="LaMP-2M",
    question=_QUESTION,
    answer=Labels(_TAGS),
    read_item=_read_item,
    read_query=after("description:"),
    item_noun="movie description",
    response_noun="tag",
    metrics=("accuracy", "f1"),
    file_names=("LaMP_2", "LaMP_2M"),
    folder="LaMP_2/new",
    item_fields=("tag", "description"),
    lead=f"{_QUESTION} description: ",
    profile_line='the tag for the movie: "{text}" is "{response}" ',
)
