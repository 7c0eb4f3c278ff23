"""`personaagent eval download`, `convert`, `tasks` and `methods`."""

from __future__ import annotations

import inspect
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal

import typer

from eval.cli import options as o
from eval.methods.registry import METHODS
from program.answers import AnswerType, Labels, Rating
from program.cli.options import Json
from program.console import confirm, err, out, print_json
from program.errors import ConfigError, PersonaAgentError
from program.printer import make_table
from program.task import get_task, task_names
from program.text import counted, cut

_MAX_QUESTION = 80
_WIDTH = 100
_INDENT = "    "


def download(
    task: Annotated[
        str,
        typer.Option(
            help="LaMP-1, LaMP-2M, LaMP-2N, LaMP-3, LaMP-4, LaMP-5 or LaMP-7. LaMP-6 needs a licence."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The folder for the files; use one for each download.")],
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option(help="The split; golds of test are not public.")
    ] = "dev",
    by: Annotated[
        Literal["user", "time"], typer.Option(help="LaMP's user-based or time-based setting.")
    ] = "user",
    base: Annotated[str | None, typer.Option(help="Base URL of a mirror of LaMP's folders.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence without a prompt.")] = False,
    json: Json = False,
) -> None:
    """Download LaMP's files; an interrupted download resumes."""
    from eval.data.download import BASE_URL
    from eval.data.download import download as fetch

    def accept(licence: str) -> bool:
        err.print_text(licence)
        return yes or confirm("Download the files under these terms?")

    files = fetch(get_task(task), to, accept, split=split, by=by, base=base or BASE_URL)
    if json:
        print_json([vars(file) for file in files])
        return
    for file in files:
        out.print_line(f"{to / file.name}  {file.bytes:,} bytes  sha256 {file.sha256}")


def convert(
    task: o.TaskName,
    data: o.Data,
    to: Annotated[Path, typer.Option("--out", help="The folder for the Arrow file and its manifest.")],
    layout: o.LayoutName = "auto",
    split: o.Split = "dev",
    json: Json = False,
) -> None:
    """Convert a data set to Arrow for Hugging Face `datasets`; `eval run --data` reads it as well."""
    from eval.data import open_data, to_datasets

    dataset = open_data(data, get_task(task), layout=layout, split=split)
    file = to_datasets(dataset, to)
    if json:
        print_json({"file": str(file), "users": len(dataset), "manifest": dataset.manifest})
        return
    users, queries = counted(len(dataset), "user"), counted(dataset.manifest["queries"], "query", "queries")
    out.print_line(f"{file}  {users}, {queries}")


def tasks(json: Json = False) -> None:
    """List the installed tasks."""
    rows: list[dict[str, Any]] = [
        {
            "name": task.name,
            "answer": _describe_answer(task.answer),
            "metrics": list(task.metrics),
            "question": task.question,
        }
        for task in map(get_task, task_names())
    ]
    if json:
        print_json(rows)
        return
    cells = [
        (row["name"], row["answer"], ", ".join(row["metrics"]), cut(row["question"], _MAX_QUESTION))
        for row in rows
    ]
    out.print(make_table(("task", "answer", "metrics", "question"), cells, fold=("metrics", "question")))


def methods(json: Json = False) -> None:
    """List the methods with their settings and defaults.

    A name such as `personaagent-memory` means the method without that part.
    """
    rows = [_describe_method(name) for name in METHODS.names()]
    if json:
        print_json(rows)
        return
    for row in rows:
        out.print_line(row["name"], style="bold")
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        for text in (row["about"], settings):
            for line in wrap(text, _WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False):
                out.print_line(_INDENT + line)


def _describe_method(name: str) -> dict[str, Any]:
    try:
        method_class = METHODS.load(name)
        settings = dict(method_class().settings())
    except (ConfigError, PersonaAgentError, ImportError, TypeError) as error:
        return {"name": name, "about": f"cannot be loaded: {error}", "floor": None, "settings": {}}
    about = (inspect.getdoc(method_class) or "").split("\n\n")[0].replace("\n", " ")
    return {"name": name, "about": about, "floor": bool(method_class.trivial), "settings": settings}


def _describe_answer(answer: AnswerType) -> str:
    if isinstance(answer, Labels):
        return f"one of {len(answer.values)} labels"
    return f"{answer.low} to {answer.high}" if isinstance(answer, Rating) else "text"
