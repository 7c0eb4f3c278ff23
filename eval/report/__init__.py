"""Tables, figures and the page."""

from eval.report.build import ReportFiles, make_report

__all__ = ["ReportFiles", "make_report"]
