"""LaMP-3, product rating: how many stars does this user give?

    {"id": "300", "input": "What is the score of the following review on a scale of 1 to 5? just answer
     with 1, 2, 3, 4, or 5 without further explanation. review: <R>",
     "profile": [{"id": "3000", "text": "...", "score": "5"}]}      gold: "5"

LaMP-like files ask about a film and have ``movie:`` instead of ``review:``.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, field
from program.answers import Rating
from program.task import Item

_QUESTION = (
    "What is the score of the following review on a scale of 1 to 5? "
    "just answer with 1, 2, 3, 4, or 5 without further explanation."
)


def _read_item(item: Mapping[str, str]) -> Item:
    # Some files hold scores as floats.
    return Item(field(item, "text"), field(item, "score").removesuffix(".0"))


TASK = LampTask(
    name="LaMP-3",
    question=_QUESTION,
    answer=Rating(1, 5),
    read_item=_read_item,
    read_query=after("review:", "movie:"),
    item_noun="review",
    response_noun="score",
    metrics=("mae", "rmse"),
    file_names=("LaMP_3",),
    folder="LaMP_3",
    item_fields=("text", "score"),
    lead=f"{_QUESTION} review: ",
    profile_line='{response} is the score for "{text}" ',
)
