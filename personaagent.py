"""All public names, and the command line.

The names are those of `program`, `optimizers` and `eval`. Each is imported on first use, so importing
this module takes little longer than importing DSPy.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from program.renamed import find_renamed

_PACKAGES = tuple(import_module(name) for name in ("program", "optimizers", "eval"))
__all__ = ["main", *sorted(name for package in _PACKAGES for name in package.__all__)]

try:
    __version__ = version("personaagent")
except PackageNotFoundError:
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    for package in _PACKAGES:
        if name in package.__all__:
            return getattr(package, name)
    return find_renamed(__name__, name)


def command_line() -> Any:
    """Return the command line as a Typer app."""
    import typer

    from eval.cli import app as eval_app
    from eval.demo import demo
    from optimizers.cli import align
    from optimizers.fleet.cli import app as fleet_app
    from optimizers.fleet.cli import worker
    from optimizers.fleet.users import align_users
    from program.cli import ask, interactions, keys, persona, serve, store, users, why
    from program.cli.root import Root
    from program.console import out
    from program.tracing.cli import app as trace_app

    app = typer.Typer(
        cls=Root,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Learn a persona for each user and keep it aligned.",
    )

    def print_version(requested: bool) -> None:
        if requested:
            out.print_text(f"personaagent {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Print the version and exit."
        ),
    ) -> None:
        pass

    app.command()(demo)
    app.add_typer(users.app, name="users")
    app.add_typer(interactions.app, name="interactions")
    app.add_typer(store.app, name="store")
    app.command()(ask.ask)
    app.command()(ask.observe)
    app.command()(align)
    app.command()(worker)
    app.add_typer(fleet_app, name="fleet")
    app.add_typer(persona.app, name="persona")
    app.command()(why.why)
    app.add_typer(eval_app, name="eval")
    app.add_typer(trace_app, name="trace")
    serve.align_with(align_users)
    app.command()(serve.serve)
    app.add_typer(keys.app, name="keys")
    return app


def main() -> None:
    """Run the command line (console entry point)."""
    from program.cli.options import guarded

    def run() -> None:
        # `module:Class` may name a file in the current folder; appended, so that it hides no installed one.
        sys.path.append(str(Path.cwd()))
        command_line()()

    sys.exit(guarded(run))


if __name__ == "__main__":
    main()
