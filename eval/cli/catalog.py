"""`personaagent eval download`, `convert`, `tasks` and `methods`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from eval.cli import options as o
from eval.methods.registry import METHODS
from program.answers import Labels, Rating
from program.cli.options import Json
from program.console import err, out, print_json
from program.errors import ConfigError, PersonaAgentError
from program.task import get_task, task_names


def download(
    task: Annotated[str, typer.Option(help="LaMP-1, 2M, 2N, 3, 4, 5 or 7.")],
    to: Annotated[Path, typer.Option(help="A folder for these files alone.")],
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option(help="Test golds are not public.")
    ] = "dev",
    by: Annotated[
        Literal["user", "time"], typer.Option(help="LaMP's user-based or time-based setting.")
    ] = "user",
    base: Annotated[str | None, typer.Option(help="Another address that has LaMP's folders.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The licence was read before; do not ask.")] = False,
    json: Json = False,
) -> None:
    """Fetch LaMP's files; a broken transfer continues where it stopped."""
    from eval.data.download import BASE_URL
    from eval.data.download import download as fetch

    def accept(licence: str) -> bool:
        err.print(licence, markup=False)
        return yes or typer.confirm("Fetch the files under these terms?", err=True)

    files = fetch(get_task(task), to, accept, split=split, by=by, base=base or BASE_URL)
    if json:
        print_json([vars(file) for file in files])
        return
    for file in files:
        out.print(f"{to / file.name}  {file.bytes:,} bytes  sha256 {file.sha256}", markup=False)


def convert(
    task: o.TaskName,
    data: o.Data,
    to: Annotated[Path, typer.Option("--out", help="A folder for the Arrow file and its manifest.")],
    layout: o.LayoutName = "auto",
    split: o.Split = "dev",
    json: Json = False,
) -> None:
    """Write a data set as Arrow for Hugging Face `datasets`; `eval run --data` reads it back."""
    from eval.data import open_data, to_datasets

    found = open_data(data, get_task(task), layout=layout, split=split)
    file = to_datasets(found, to)
    if json:
        print_json({"file": str(file), "users": len(found), "manifest": found.manifest})
        return
    out.print(f"{file}  {len(found)} users, {found.manifest['queries']} queries", markup=False)


def tasks(json: Json = False) -> None:
    """List the tasks."""
    found = [get_task(name) for name in task_names()]
    if json:
        print_json(
            [
                {
                    "name": t.name,
                    "answer": _answer(t.answer),
                    "metrics": list(t.metrics),
                    "question": t.question,
                }
                for t in found
            ]
        )
        return
    table = Table("task", "answer", "metrics", "question", box=None)
    for one in found:
        table.add_row(one.name, _answer(one.answer), ", ".join(one.metrics), one.question[:80])
    out.print(table)


def methods(json: Json = False) -> None:
    """List the methods with their settings and defaults."""
    rows = [_method(name) for name in METHODS.names()]
    if json:
        print_json(rows)
        return
    table = Table("method", "", "settings", box=None)
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        table.add_row(row["name"], row["about"], settings)
    out.print(table)


def _method(name: str) -> dict[str, Any]:
    try:
        found = METHODS.load(name)
        settings = dict(found().settings())
    except (ConfigError, PersonaAgentError, ImportError, TypeError) as error:
        return {"name": name, "about": f"cannot be loaded: {error}", "floor": None, "settings": {}}
    about = (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")
    return {"name": name, "about": about, "floor": bool(found.trivial), "settings": settings}


def _answer(kind: Any) -> str:
    if isinstance(kind, Labels):
        return f"one of {len(kind.values)} labels"
    return f"{kind.low} to {kind.high}" if isinstance(kind, Rating) else "text"
