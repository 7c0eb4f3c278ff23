"""Options of `eval run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

TaskName = Annotated[str, typer.Option("--task", help="LaMP-1, 2M, 2N, 3, 4, 5, 7, or module:TASK.")]
Data = Annotated[
    Path,
    typer.Option(help="A file or folder in LaMP's, OPPU's or the parquet layout, or Arrow made from one."),
]
Methods = Annotated[
    list[str],
    typer.Option("--method", help="Names, with settings where wanted: baselines,rag:k=8,personaagent."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting for every method that has it: k=8, max_steps=3. Repeatable."),
]
Out = Annotated[Path, typer.Option(help="The run's folder; a run that was stopped continues there.")]
Over = Annotated[
    str | None,
    typer.Option(
        help="Run once for each value of one setting (a method's, model, history, users, queries or seed): "
        "batch=1,3,5. Limits hold for each run."
    ),
]
Users = Annotated[int | None, typer.Option(help="How many users; default: all.")]
Order = Annotated[Literal["file", "most-active", "random"], typer.Option(help="Which users those are.")]
History = Annotated[int | None, typer.Option(help="How many history items of each user; default: all.")]
HistoryFrom = Annotated[Literal["last", "first"], typer.Option(help="The latest of them, or the earliest.")]
Queries = Annotated[int | None, typer.Option(help="How many queries of each user; default: all.")]
DropRepeats = Annotated[
    bool, typer.Option("--drop-repeats", help="Leave out history items that give an answer away.")
]
LayoutName = Annotated[
    Literal["auto", "lamp", "oppu", "parquet", "arrow"],
    typer.Option("--layout", help="How the data lie there."),
]
Split = Annotated[Literal["train", "dev", "test"], typer.Option(help="Which of LaMP's files in a folder.")]
Official = Annotated[
    bool,
    typer.Option(
        "--official",
        help="The data are LaMP's own files (known of those that `eval download` fetched); "
        "otherwise results are called LaMP-like.",
    ),
]
PromptModel = Annotated[
    str | None, typer.Option(help="Model of feedback and update; default: the model that answers.")
]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature; default: the model's.")]
Threads = Annotated[int, typer.Option(help="Users and methods served at the same time.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
MaxCalls = Annotated[int | None, typer.Option(help="Stop before the folder has cost more model calls.")]
MaxUsd = Annotated[float | None, typer.Option(help="Stop once the folder has cost this much.")]
