"""`personaagent eval`: run, sweep, score, compare, predictions, report, download, convert, tasks, methods."""

from __future__ import annotations

import typer

from eval.cli import listing, results, running, sweeping

app = typer.Typer(no_args_is_help=True, help="Measure methods on LaMP data.")
app.command()(running.run)
app.command()(sweeping.sweep)
app.command()(results.score)
app.command()(results.compare)
app.command()(results.predictions)
app.command()(results.report)
app.command()(listing.download)
app.command()(listing.convert)
app.command()(listing.tasks)
app.command()(listing.methods)

__all__ = ["app"]
