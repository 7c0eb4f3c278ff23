"""From a run folder to a folder of tables, figures and one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eval.metrics import get_metric
from eval.report import ablation, cases, costs, differences, personas, reproduce, results, sweeps
from eval.report.analysis import analyse
from eval.report.compare import SETTINGS
from eval.report.data import ReportRun, Study
from eval.report.load import load
from eval.report.markdown import markdown
from eval.report.page import page
from eval.report.persona_map import Embed
from eval.report.section import Section
from eval.report.table import heading, percent, show, to_csv, to_latex, to_markdown
from eval.writing import writing

_FILES = "files.txt"
"""Lists the tables and figures of a report, for the next one."""


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What a report wrote.

    Attributes:
        page: The self-contained HTML page.
        markdown: The same as Markdown.
        tables: Each table as CSV, LaTeX and Markdown.
        figures: Each figure as SVG, with its numbers as CSV beside it.
    """

    page: Path
    markdown: Path
    tables: Sequence[Path]
    figures: Sequence[Path]


def make_report(
    run: Path, out: Path | None = None, *, reference: str | None = None, dense_map: bool = False
) -> ReportFiles:
    """Write the report of a run folder; the same folder gives the same bytes.

    Args:
        run: A run folder, a sweep folder, or a run folder with sweep folders in it.
        out: Where to write; by default the folder ``report`` in ``run``. What an earlier report
            wrote there is replaced or deleted, other files are left alone.
        reference: The method that the others are held against; by default `personaagent`.
        dense_map: Place personas by the packaged sentence encoder instead of by their words. The same
            bytes then come from the same machine and libraries only.

    Raises:
        DataError: No run folder, a damaged one, or one without golds; ``out`` cannot be written.
        ConfigError: ``reference`` took no part in the run.
        ModelSetupError: ``dense_map`` without torch, transformers or the encoder.
    """
    study = load(run)
    sections = _sections(study, reference, _encoder() if dense_map else None)
    text = (_title(study), _lead(study), _how(study.any_run), sections)
    out = out or run / "report"
    tables = [table for section in sections for table in (*section.tables, *section.more)]
    figures = [figure for section in sections for figure in section.figures]
    made = ReportFiles(
        page=_write(out / "report.html", page(*text)),
        markdown=_write(out / "report.md", markdown(*text)),
        tables=[
            _write(out / "tables" / f"{table.name}.{suffix}", render(table))
            for table in tables
            for suffix, render in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex))
        ],
        figures=[
            _write(out / "figures" / f"{figure.numbers.name}.{suffix}", content)
            for figure in figures
            for suffix, content in (("svg", figure.svg), ("csv", to_csv(figure.numbers)))
        ],
    )
    _tidy(out, [path.relative_to(out).as_posix() for path in (*made.tables, *made.figures)])
    return made


def _sections(study: Study, reference: str | None, embed: Embed | None) -> list[Section]:
    analysis = analyse(study.run, reference) if study.run else None
    found = [
        *(
            [results.section(analysis), differences.section(analysis), ablation.section(analysis)]
            if analysis
            else []
        ),
        *(sweeps.section(sweep) for sweep in study.sweeps),
        *(
            [personas.section(analysis, embed), cases.section(analysis), costs.section(analysis.run)]
            if analysis
            else []
        ),
        reproduce.section(study),
    ]
    return [section for section in found if section]


def _encoder() -> Embed:
    from program.memory.retrieval.encoder import load_encoder

    return load_encoder().encode


def _title(study: Study) -> str:
    return f"{study.any_run.label}: {'methods compared' if study.run else 'sweep'}"


def _lead(study: Study) -> str:
    run = study.any_run
    if study.run is None and study.sweeps[0].over in ("model", "users", "queries"):
        return f"{len(study.sweeps[0].points)} runs that differ in `{study.sweeps[0].over}`: see the table."
    queries = len(run.methods[0].answers)
    return f"{len(run.users)} users, {queries} queries. Model: {run.model or 'none, floors only'}."


def _how(run: ReportRun) -> list[str]:
    """Return what a reader has to know before the first number."""
    metrics = "; ".join(heading(get_metric(name)) for name in run.task.metrics)
    lines = [
        f"Scores: {metrics}. They follow the rules of LaMP's scorer.",
        f"Brackets are {percent(SETTINGS.confidence)} intervals from {show(SETTINGS.resamples)} resamples of "
        "users, because users are what was sampled, not queries; with few users they are wide, and rightly "
        "so.",
        "A method is called better only where the interval of the difference, taken query by query, "
        "excludes zero. Everything else is undecided, however large the difference looks.",
        "Missing answers (outages, stopped runs) are never scored as wrong; two methods are not compared "
        "where their shares of missing answers are more than 1 % apart. Invalid answers are answers: "
        "they are scored.",
        "Floors need no model. A method that does not beat them has shown nothing.",
    ]
    if run.lamp_like:
        lines.insert(
            0,
            "The data is LaMP-like: it is not LaMP's own, and no number here may be held against a "
            "published LaMP number.",
        )
    return lines


def _tidy(out: Path, made: Sequence[str]) -> None:
    """Delete what an earlier report wrote and this one did not, such as a table of missing answers."""
    listed = out / _FILES
    before = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    for name in set(before) - set(made):
        if str(PurePosixPath(name).parent) in ("tables", "figures"):
            (out / name).unlink(missing_ok=True)
    _write(listed, "".join(f"{name}\n" for name in made))


def _write(path: Path, text: str) -> Path:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return path
