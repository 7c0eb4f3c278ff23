"""`personaagent eval score`, `compare`, `predictions` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table as RichTable

from eval.records import read_run
from eval.submission import score_files, write_predictions
from program.cli.options import Json
from program.console import err, out, print_json
from program.errors import ConfigError, DataError
from program.printer import cell
from program.task import get_task
from program.text import counted

if TYPE_CHECKING:
    from eval.metrics import Measure
    from eval.report.analysis import Analysis
    from eval.report.table import Table

RunFolder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Format = Annotated[
    Literal["terminal", "markdown", "csv", "latex"], typer.Option("--format", help="How to print it.")
]

_MIN_WIDTH = 140
"""Columns of a table; a narrower terminal wraps lines instead of cutting digits."""


def score(
    path: Annotated[Path, typer.Argument(help="A run folder, or a prediction file with `--golds`.")],
    golds: Annotated[Path | None, typer.Option(help="Gold file for a prediction file.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of a prediction file.")] = None,
    format_: Format = "terminal",
    json: Json = False,
) -> None:
    """Score a run, or a prediction file in LaMP's format."""
    if golds is None and task is None:
        print_scores(path, format_, json)
        return
    if golds is None or task is None:
        raise ConfigError("a prediction file needs both `--golds` and `--task`")
    scores = score_files(path, golds, get_task(task))
    if json:
        print_json([vars(score) for score in scores])
        return
    for score in scores:
        out.print_line(
            f"{score.name}: {score.value:.4f} {score.unit}, {score.better} is better, n = {score.n}"
        )


def compare(
    path: RunFolder,
    a: Annotated[str | None, typer.Argument(help="A method; default: the reference.")] = None,
    b: Annotated[str | None, typer.Argument(help="The method to compare it with; default: all.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every pair.")] = False,
    metric: Annotated[
        str | None,
        typer.Option(help="The metric, or log-likelihood if methods give it; default: the main one."),
    ] = None,
    signs: Annotated[
        bool,
        typer.Option(
            "--signs",
            help="Count over all pairs how often log-likelihood and the main metric have the same sign.",
        ),
    ] = False,
    format_: Format = "terminal",
    json: Json = False,
) -> None:
    """Compare methods on the same queries: differences, intervals, corrected p-values, power."""
    from eval.report.analysis import FULL_METHOD
    from eval.report.differences import comparison_table

    if signs:
        if a is not None or metric is not None:
            raise ConfigError("`--signs` counts over all pairs of methods: leave out A, B and `--metric`")
        from eval.report.agreement import sign_table

        _print(sign_table(_analysis(path)), format_, json)
        return
    analysis = _analysis(path, a)
    measure = _measure(analysis, metric)
    pairs = analysis.comparisons[measure.name]
    if not all_ or a:
        pairs = [pair for pair in pairs if pair.a == analysis.reference.name]
    if b is not None:
        pairs = [pair for pair in pairs if pair.b == b]
        if not pairs:
            names = ", ".join(method.name for method in analysis.methods)
            raise ConfigError(f"method {b!r} is not in this run; choose one of: {names}")
    if not pairs:
        raise ConfigError(
            f"cannot compare: `{path}` has only one method; add another one, such as {FULL_METHOD}"
        )
    title = f"{analysis.run.label}, {measure.title}: {analysis.reference.name} (A) against others (B)"
    _print(comparison_table("compare", title, pairs), format_, json)


def predictions(
    path: RunFolder,
    method: Annotated[str, typer.Argument(help="The method.")],
    to: Annotated[Path, typer.Option("--out", help="The file to write.")],
) -> None:
    """Write a method's answers in LaMP's submission format."""
    run = read_run(path)
    if method not in run.labels:
        raise ConfigError(f"method {method!r} is not in this run; choose one of: {', '.join(run.labels)}")
    missing = run.missing(method)
    if missing:
        raise DataError(
            f"{method!r} still lacks {counted(missing, 'answer')}, but LaMP scores only complete files; "
            "resume the run first"
        )
    if len({query.query_id for query in run.queries}) < len(run.queries):
        raise DataError(
            "two users have a query with the same id, but LaMP's format has no user ids; use another run"
        )
    answers = {query.query_id: run.answer(method, query) for query in run.queries}
    texts = {query_id: record.text or "" for query_id, record in answers.items() if record is not None}
    write_predictions(to, texts, get_task(run.manifest.task))
    err.print_line(f"{counted(len(texts), 'prediction')} written to {to}")


def report(
    path: Annotated[Path, typer.Argument(help="A run folder, a sweep folder, or a folder of sweeps.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="The report's folder; default: `report` in it.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The method that others are compared with.")] = None,
    dense_map: Annotated[
        bool,
        typer.Option("--dense-map", help="Map personas by sentence embeddings, not words."),
    ] = False,
    json: Json = False,
) -> None:
    """Write tables, figures and a self-contained page."""
    from eval.report import make_report

    files = make_report(path, to, reference=reference, dense_map=dense_map)
    if json:
        print_json({"page": str(files.page), "markdown": str(files.markdown)})
        return
    out.print_line(str(files.page))
    tables, figures = counted(len(files.tables), "table file"), counted(len(files.figures), "figure file")
    err.print_line(f"{tables} and {figures} beside it")


def print_scores(path: Path, format_: str = "terminal", json: bool = False) -> None:
    """Print the main table of a run."""
    from eval.report.results import main_table

    _print(main_table(_analysis(path)), format_, json)


def _analysis(path: Path, reference: str | None = None) -> Analysis:
    from eval.report.analysis import analyse
    from eval.report.load import load

    study = load(path)
    if study.run is None:
        raise DataError(f"`{path}` is a sweep; give one of its run folders, or use `eval report`")
    return analyse(study.run, reference)


def _measure(analysis: Analysis, name: str | None) -> Measure:
    """Return the measure called ``name``; ``None`` is the main metric."""
    measures = {measure.name: measure for measure in analysis.measures}
    if name is None:
        return analysis.main
    if name not in measures:
        raise ConfigError(
            f"this run has no metric {name[:80]!r}; choose one of: {', '.join(measures)} "
            "(log-likelihood needs a method that gives probabilities)"
        )
    return measures[name]


def _print(table: Table, format_: str, json: bool) -> None:
    from eval.report.table import to_csv, to_latex, to_markdown

    if json:
        print_json([dict(row) for row in table.rows])
    elif format_ == "terminal":
        rich_table = RichTable(title=cell(table.title, "table.title"), box=None, title_justify="left")
        for column in table.columns:
            rich_table.add_column(
                cell(column.title), justify="right" if column.number else "left", overflow="fold"
            )
        for cells in table.cells:
            rich_table.add_row(*map(cell, cells))
        out.print_wide(rich_table, _MIN_WIDTH)
        for note in table.notes:
            out.print_line(note, style="dim")
    else:
        render = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}[format_]
        out.print_text(render(table), end="")
