"""Options that several commands share, and the way from options to store and model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from program.console import err, exit_code, explain
from program.home import home
from program.store import UserStore

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Any model DSPy knows (openai/gpt-4o-mini, ollama_chat/llama3.2, ...), gguf:PATH, or embedded."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(help="Database: a file or a SQLAlchemy URL. Default: users.db in the data directory."),
]
User = Annotated[str, typer.Argument(help="User id; see `personaagent users list`.", show_default=False)]
Wikipedia = Annotated[
    bool, typer.Option(help="Let the agent search Wikipedia; its search words leave this machine.")
]


@contextmanager
def open_store(where: str | None) -> Iterator[UserStore]:
    """Open the store of this command."""
    with UserStore(where or home() / "users.db") as store:
        yield store


@contextmanager
def model_in_use(spec: str | None) -> Iterator[Any]:
    """Run the command with this language model; without one, with the embedded model."""
    import dspy

    from program.models.resolve import resolve_lm

    lm = resolve_lm(spec)
    with dspy.context(lm=lm, disable_history=True, trace=None):
        yield lm


def guarded(main: Any) -> int:
    """Run a command line and turn what it raises into one line and an exit code."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        err.print("Interrupted. What was finished is stored.")
        return 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        err.print("error:", line, style="red", markup=False)
        return exit_code(error)
    return 0
