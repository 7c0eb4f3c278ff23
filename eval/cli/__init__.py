"""`personaagent eval`: run, sweep, score, compare, predictions, report, download, convert, tasks, methods."""

from __future__ import annotations

import typer

from eval.cli import catalog, results, run

app = typer.Typer(no_args_is_help=True, help="Measure methods on LaMP data.")
app.command()(run.run)
app.command("sweep", help="The same as `run`, with `--over`.")(run.run)
app.command()(results.score)
app.command()(results.compare)
app.command()(results.predictions)
app.command()(results.report)
app.command()(catalog.download)
app.command()(catalog.convert)
app.command()(catalog.tasks)
app.command()(catalog.methods)

__all__ = ["app"]
