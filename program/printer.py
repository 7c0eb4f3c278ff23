r"""Prints texts from outside on a terminal or into a pipe: never as markup, never as control characters.

`Printer` is the only way out for people's eyes. `to_json` is the way out for programs: strict JSON, with
the same characters as ``\u`` escapes.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from program.text_safety import printable

_PIPE_WIDTH = 100_000
"""Columns of a table in a pipe: one line for each row, so that `grep` finds whole ids."""

_NARROWEST = 12
"""Columns of a folded column, however narrow the terminal is."""

_LINE_ENDS = re.compile("[\t\r\n\x0b\x0c\x85\u2028\u2029]+")
_BEYOND_ASCII = re.compile("[^\x00-\x7e]")


class Printer(Console):
    r"""A console that prints data as it is: brackets are not markup, control characters are escaped.

    Only Rich itself writes escape sequences, for colours and the progress bar. Tables keep their full
    width if the output is not a terminal. If the reader of a pipe goes away, the rest is dropped and the
    command ends with its own exit code.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> Printer(file=file).print_text("[red]ann \x1b[2J")
        >>> print(file.getvalue(), end="")
        [red]ann \x1b[2J
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, highlight=False, emoji=False, markup=False, **options)

    def print_text(self, text: str, style: str = "", end: str = "\n") -> None:
        """Print text with its own spaces, tabs and line ends."""
        safe = printable(text.replace("\r\n", "\n"))
        self.print(Segments([Segment(safe + end, self.get_style(style) if style else None)]))

    def print_line(self, text: str, style: str = "") -> None:
        """Print text as one line."""
        self.print_text(_LINE_ENDS.sub(" ", text), style)

    def print_wide(self, renderable: RenderableType, min_width: int) -> None:
        """Print a table that is at least ``min_width`` columns wide; a narrower terminal wraps its lines."""
        options = self.options
        self.print(Segments(self.render(renderable, options.update(width=max(options.max_width, min_width)))))

    @property
    def options(self) -> ConsoleOptions:
        """The options for rendering; a pipe has no width."""
        options = super().options
        return options if self.is_terminal else options.update(width=_PIPE_WIDTH)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text``, escaped, with the width that it has when it is printed."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable; the text in them is escaped."""
        for segment in super().render(renderable, options):
            text = segment.text
            yield segment if segment.control else Segment(printable(text), segment.style)

    def on_broken_pipe(self) -> None:
        """Drop all further output."""
        self.quiet = True
        discard(self.file)


def discard(stream: Any) -> None:
    """Send what a stream still holds to nowhere, so that Python does not fail on it when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # it has no descriptor, or is closed
        pass
    finally:
        os.close(nowhere)


def cell(text: str, style: str = "") -> Text:
    r"""Return the text of a table's cell: one line, escaped.

    Example:
        >>> cell("two\nlines of [b]").plain
        'two lines of [b]'
    """
    return Text(printable(_LINE_ENDS.sub(" ", text)), style)


def make_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, fold: Collection[str]) -> Table:
    """Return a table of texts.

    Args:
        titles: The heading of each column.
        rows: One text for each column.
        fold: The titles of the columns that a narrow terminal wraps; the others keep their width.
    """
    table = Table(box=None)
    cells = [[cell(text) for text in row] for row in rows]
    for index, title in enumerate(titles):
        width = max([len(title), *(row[index].cell_len for row in cells)])
        narrowest = min(width, _NARROWEST) if title in fold else None
        table.add_column(Text(title), no_wrap=title not in fold, overflow="fold", min_width=narrowest)
    for row in cells:
        table.add_row(*row)
    return table


def command(name: str, *arguments: str, **options: object) -> str:
    r"""Return a command line that can be pasted into a shell.

    Example:
        >>> command("align", "team[/eu]")
        "personaagent align 'team[/eu]'"
        >>> command("ask", "-ann", "what now?", store="users.db")
        "personaagent ask --store users.db -- -ann 'what now?'"
        >>> print(command("align", "ann\u202e"))
        personaagent align $'ann\u202e'
    """
    words = [_quote(argument) for argument in arguments]
    flags = [word for key, value in options.items() for word in (f"--{key}", _quote(str(value)))]
    dashed = any(argument.startswith("-") for argument in arguments)
    return " ".join(["personaagent", name, *((*flags, "--", *words) if dashed else (*words, *flags))])


def to_json(value: Any, *, ascii_only: bool = False) -> str:
    r"""Return ``value`` as indented JSON that every parser reads.

    Dates and other objects become text, NaN and infinity ``null``. Characters that `printable` escapes
    are written as ``\u`` escapes.

    Example:
        >>> print(to_json({"text": "Zoë\x9b\ud83d", "loss": float("nan")}))
        {
          "text": "Zoë\u009b\ud83d",
          "loss": null
        }
    """
    text = json.dumps(_finite(value), default=str, ensure_ascii=ascii_only, indent=2)
    return _BEYOND_ASCII.sub(_escape_json, text)


def _escape_json(match: re.Match[str]) -> str:
    character = match[0]
    return character if printable(character) == character else f"\\u{ord(character):04x}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _quote(text: str) -> str:
    """Quote a shell word; control characters in bash's and zsh's ``$'...'``."""
    if printable(text) == text and text.isprintable():
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in plain) + "'"
