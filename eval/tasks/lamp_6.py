"""LaMP-6, e-mail subject: how would this person title the e-mail? The files need a licence.

{"id": "600", "input": "Generate a subject for the following email: <E>",
 "profile": [{"id": "6000", "text": "...", "title": "..."}]}      gold: the subject
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.tasks.base import LampTask, after, field
from program.answers import Text
from program.task import Item


def _read_item(item: Mapping[str, str]) -> Item:
    return Item(field(item, "text"), field(item, "title"))


TASK = LampTask(
    name="LaMP-6",
    question="Generate a subject for the following email:",
    answer=Text(),
    read_item=_read_item,
    read_query=after("email:"),
    item_noun="e-mail",
    response_noun="subject",
    metrics=("rouge-1", "rouge-L"),
    file_names=("LaMP_6",),
    folder="LaMP_6",
    item_fields=("text", "title"),
    lead="Generate a subject for the following email: ",
    profile_line='"{response}" is the title for "{text}" ',
    licence="LaMP-6 is the Avocado corpus: get LDC2015T03 and build the files with LaMP's script",
)
