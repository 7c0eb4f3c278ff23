"""Makes a report from a run folder: tables, figures, a Markdown file and an HTML page."""

from eval.report.build import ReportFiles, make_report

__all__ = ["ReportFiles", "make_report"]
