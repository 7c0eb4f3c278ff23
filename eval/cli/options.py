"""Options of `eval run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from program.limits import MOST_STEPS

TaskName = Annotated[
    str,
    typer.Option(
        "--task", help="LaMP-1, LaMP-2M, LaMP-2N, LaMP-3 to LaMP-7, free-text, or module:TASK for your own."
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        help="A file or folder in LaMP's, OPPU's or the parquet layout, or written by `eval convert`."
    ),
]
Methods = Annotated[
    list[str],
    typer.Option("--method", help="Methods, with settings: baselines,rag:k=8,personaagent. Repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting for every method that has it: k=8, max_steps=3. Repeatable."),
]
Out = Annotated[Path, typer.Option(help="The run folder; an existing one is resumed.")]
Over = Annotated[
    str | None,
    typer.Option(
        help="Run once for each value of one setting (a method's, model, history, users, queries or seed): "
        "batch=1,3,5. Limits apply to each run."
    ),
]
Users = Annotated[int | None, typer.Option(help="Number of users; default: all.")]
Order = Annotated[Literal["file", "most-active", "random"], typer.Option(help="Which users to select.")]
History = Annotated[int | None, typer.Option(help="Number of history items of each user; default: all.")]
HistoryFrom = Annotated[Literal["last", "first"], typer.Option(help="The latest items or the earliest.")]
Queries = Annotated[int | None, typer.Option(help="Number of queries of each user; default: all.")]
DropRepeats = Annotated[
    bool,
    typer.Option(
        "--drop-repeats", help="Leave out history items that contain the text or answer of a query."
    ),
]
LayoutName = Annotated[
    Literal["auto", "lamp", "oppu", "parquet", "arrow"],
    typer.Option("--layout", help="Layout of the data; auto detects it."),
]
Split = Annotated[Literal["train", "dev", "test"], typer.Option(help="Split of a folder in LaMP's layout.")]
Official = Annotated[
    bool,
    typer.Option(
        "--official",
        help="The data are LaMP's own files; detected for files from `eval download`. "
        "Otherwise results are called LaMP-like.",
    ),
]
PromptModel = Annotated[
    str | None, typer.Option(help="Model of feedback and rewrites; default: the model that answers.")
]
Temperature = Annotated[float | None, typer.Option(min=0, help="Sampling temperature; default: the model's.")]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Divide the probabilities of labels by their prior; for models that score labels: `embedded`.",
    ),
]
Threads = Annotated[
    int, typer.Option(max=MOST_STEPS, help="Jobs (one user, one method) that run at the same time.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
MaxCalls = Annotated[
    int | None,
    typer.Option(min=0, help="Stop before more model calls than this, all resumes of the run counted."),
]
MaxUsd = Annotated[
    float | None,
    typer.Option(min=0, help="Stop when this many US dollars are spent, all resumes of the run counted."),
]
