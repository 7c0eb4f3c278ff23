"""`make_report`: writes tables, figures, a Markdown file and a page for a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.files import explain_write_errors
from eval.report import agreement, case_studies, costs, differences, persona_figures, results, sweeps
from eval.report.analysis import analyse
from eval.report.data import Study
from eval.report.load import load
from eval.report.persona_figures import Embed
from eval.report.render import render_markdown, render_page
from eval.report.run_info import make_introduction, reproduction_section
from eval.report.section import Section
from eval.report.table import to_csv, to_latex, to_markdown
from eval.report_files import FOLDER, LISTING, MARKDOWN, PAGE, listed


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """The files of a report.

    Attributes:
        page: Self-contained HTML page.
        markdown: The report as Markdown.
        tables: Each table as CSV, Markdown and LaTeX.
        figures: Each figure as SVG, and its numbers as CSV.
    """

    page: Path
    markdown: Path
    tables: Sequence[Path]
    figures: Sequence[Path]


def make_report(
    run: Path, out: Path | None = None, *, reference: str | None = None, dense_map: bool = False
) -> ReportFiles:
    """Write the report of a run folder. The same folder gives the same bytes.

    Args:
        run: A run folder, a sweep folder, or a run folder with sweep folders in it.
        out: The output folder; by default ``report`` in ``run``. Tables and figures of an earlier report
            are replaced or deleted; other files stay.
        reference: The method that the others are compared with; by default `personaagent`.
        dense_map: Whether to map personas with the packaged sentence encoder instead of TF-IDF. The bytes
            then depend on the machine and the library versions.

    Raises:
        DataError: ``run`` is not a run folder, is damaged or has no golds, or ``out`` is not writable.
        ConfigError: ``reference`` is not a method of the run.
        ModelSetupError: ``dense_map`` needs torch, transformers and the encoder.

    Example:
        >>> from pathlib import Path
        >>> from eval.api import evaluate
        >>> from eval.demo import SAMPLE
        >>> result = evaluate(task="LaMP-2M", data=SAMPLE, methods=["user-majority", "constant"], out="run")
        >>> files = make_report(result.out)
        >>> files.page == Path("run/report/report.html")
        True
        >>> sorted(path.name for path in files.figures)
        ['differences.csv', 'differences.svg', 'scores.csv', 'scores.svg']
    """
    study = load(run)
    introduction = make_introduction(study)
    sections = _sections(study, reference, _encoder() if dense_map else None)
    out = out or run / FOLDER
    tables = [table for section in sections for table in (*section.tables, *section.folded_tables)]
    figures = [figure for section in sections for figure in section.figures]
    files = ReportFiles(
        page=_write(out / PAGE, render_page(introduction, sections)),
        markdown=_write(out / MARKDOWN, render_markdown(introduction, sections)),
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
    _delete_stale(out, [path.relative_to(out).as_posix() for path in (*files.tables, *files.figures)])
    return files


def _sections(study: Study, reference: str | None, embed: Embed | None) -> list[Section]:
    """Return the sections in the order of the report, without those that do not apply."""
    sweep_sections = [sweeps.section(sweep) for sweep in study.sweeps]
    if study.run is None:
        return [*sweep_sections, reproduction_section(study)]
    analysis = analyse(study.run, reference)
    sections = [
        results.section(analysis),
        differences.section(analysis),
        agreement.section(analysis) if analysis.has_likelihood else None,
        differences.ablation_section(analysis),
        *sweep_sections,
        persona_figures.section(analysis, embed),
        case_studies.section(analysis),
        costs.section(analysis.run),
        reproduction_section(study),
    ]
    return [section for section in sections if section]


def _encoder() -> Embed:
    from program.memory.retrieval.encoder import load_encoder

    return load_encoder().encode


def _delete_stale(out: Path, names: Sequence[str]) -> None:
    """Delete tables and figures that an earlier report listed and this one does not write."""
    for name in set(listed(out)) - set(names):
        (out / name).unlink(missing_ok=True)
    _write(out / LISTING, "".join(f"{name}\n" for name in names))


def _write(path: Path, text: str) -> Path:
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path
