"""Front door: the public names and the command line.

Names are imported when they are first used, so that importing this module costs little more than
importing DSPy.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimizers.alignment import PersonaAlignment as PersonaAlignment
    from optimizers.batch import examples as examples
    from optimizers.config import PAPER as PAPER
    from optimizers.config import AlignmentConfig as AlignmentConfig
    from program.agent import PersonaAgent as PersonaAgent
    from program.answers import Labels as Labels
    from program.answers import Rating as Rating
    from program.answers import Text as Text
    from program.errors import PersonaAgentError as PersonaAgentError
    from program.ledger import Budget as Budget
    from program.ledger import Ledger as Ledger
    from program.ledger import accounting as accounting
    from program.loop import AgentSettings as AgentSettings
    from program.memory.episodic import EpisodicMemory as EpisodicMemory
    from program.memory.interaction import Interaction as Interaction
    from program.memory.summary import build_profile as build_profile
    from program.models.resolve import resolve_lm as resolve_lm
    from program.models.scripted import scripted_lm as scripted_lm
    from program.persona import initial_persona as initial_persona
    from program.store import UserStore as UserStore
    from program.task import Task as Task
    from program.task import get_task as get_task
    from program.tools import default_tools as default_tools
    from program.tools.base import Tool as Tool
    from program.tools.toolset import ToolSet as ToolSet

try:
    __version__ = version("personaagent")
except PackageNotFoundError:
    __version__ = "0+source"

_HOMES = {
    "PAPER": "optimizers.config",
    "AgentSettings": "program.loop",
    "AlignmentConfig": "optimizers.config",
    "Budget": "program.ledger",
    "EpisodicMemory": "program.memory.episodic",
    "Interaction": "program.memory.interaction",
    "Labels": "program.answers",
    "Ledger": "program.ledger",
    "PersonaAgent": "program.agent",
    "PersonaAgentError": "program.errors",
    "PersonaAlignment": "optimizers.alignment",
    "Rating": "program.answers",
    "Task": "program.task",
    "Text": "program.answers",
    "Tool": "program.tools.base",
    "ToolSet": "program.tools.toolset",
    "UserStore": "program.store",
    "accounting": "program.ledger",
    "build_profile": "program.memory.summary",
    "default_tools": "program.tools",
    "examples": "optimizers.batch",
    "get_task": "program.task",
    "initial_persona": "program.persona",
    "resolve_lm": "program.models.resolve",
    "scripted_lm": "program.models.scripted",
}
__all__ = [*_HOMES, "main"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'personaagent' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def command_line() -> Any:
    """Return the whole command line, a Typer app."""
    import typer

    from eval.cli import app as eval_app
    from eval.demo import demo
    from optimizers.cli import align
    from program.cli import persona, talk, users
    from program.tracing.cli import app as trace_app

    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Learn a persona for each user and keep it aligned.",
    )
    app.command()(demo)
    app.add_typer(users.app, name="users")
    app.command()(talk.ask)
    app.command()(talk.observe)
    app.command()(align)
    app.add_typer(persona.app, name="persona")
    app.add_typer(eval_app, name="eval")
    app.add_typer(trace_app, name="trace")
    return app


def main() -> None:
    """Run the command line (console entry point)."""
    from program.cli.options import guarded

    # `module:Class` names a file beside the user; last, so that it hides nothing installed.
    sys.path.append(str(Path.cwd()))
    sys.exit(guarded(command_line()))


if __name__ == "__main__":
    main()
