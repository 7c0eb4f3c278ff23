"""The root of the command line: one line for arguments that cannot be used."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from program.console import INTERRUPTED, USAGE, err, print_error
from program.errors import ConfigError
from program.text_safety import find_problem

_UsageError: Any = typer.BadParameter.__mro__[1]
"""The base class of errors in options and arguments, from `click` or from Typer's copy of it."""


class Root(TyperGroup):
    """A group of commands that reports errors in one line, without Typer's box, and never as markup."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command and exit.

        Raises:
            ConfigError: An argument is empty or not valid UTF-8; no command has run.
        """
        words = list(sys.argv[1:] if args is None else args)
        _check_words(words)
        try:
            code = super().main(words, *rest, **{**options, "standalone_mode": False})
        except _UsageError as error:
            # Without any argument, Typer has already printed the help.
            if type(error).__name__ != "NoArgsIsHelpError":
                path = error.ctx.command_path if error.ctx else "personaagent"
                print_error(f"{error.format_message().rstrip('.')} (see `{path} --help`)")
            sys.exit(USAGE)
        except typer.Abort:
            err.print_text("Stopped; nothing was changed. Give `--yes` to skip the question.")
            sys.exit(1)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code or 0)


def _check_words(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        # An empty `--store` would mean the default one, an empty `--out` the current folder.
        if not word.strip() or re.fullmatch(r"--[\w-]+=\s*", word):
            raise ConfigError(f"argument {number}, {word!r}, is empty; is a variable of the shell not set?")
        # The system's bytes that are not UTF-8 arrive as surrogates, which no prompt or file can hold.
        if find_problem(word):
            raise ConfigError(
                f"argument {number}, {word!r}, is not valid UTF-8; write it in UTF-8, and rename a file that "
                "has such a name"
            )
