"""Cost section: calls, tokens, money and time of each method, for preparing and for answering."""

from __future__ import annotations

from collections.abc import Sequence

from eval.records import Cost
from eval.report.data import MethodRun, ReportRun
from eval.report.section import Section
from eval.report.table import Column, Row, Scalar, Table, key_column, show


def section(run: ReportRun) -> Section:
    """Return the cost of each method of a run."""
    return Section(
        id="costs",
        title="Costs",
        text=[
            "Preparing (summaries, alignment) happens once per user, before that user's first query; "
            "answering happens once per query. Every attempt counts, including failed ones."
        ],
        tables=[cost_table(run)],
    )


def cost_table(run: ReportRun) -> Table:
    """Return two rows for each method: preparing, per user, and answering, per answer."""
    return Table(
        name="costs",
        title="Cost of each method",
        rows=[
            {"method": method.name, "stage": stage, **cost_cells(method, stage)}
            for method in run.methods
            for stage in ("prepare", "answer")
        ],
        columns=[
            key_column("method", "Method", number=False),
            Column("Stage, unit", lambda row: f"{row['stage']}, each {row['unit']}", number=False),
            key_column("units", "Units"),
            key_column("calls", "Calls"),
            key_column("calls_each", "Calls per unit", digits=1),
            key_column("agent_runs_each", "Rollouts per unit", digits=1),
            key_column("cache_hits", "Cached calls"),
            key_column("input_tokens", "Input tokens"),
            key_column("output_tokens", "Output tokens"),
            key_column("tokens_each", "Tokens per unit", digits=0),
            usd_column("USD"),
            key_column("seconds", "Seconds", digits=1),
            key_column("seconds_each", "Seconds per unit", digits=2),
        ],
        notes=[
            "Seconds: summed wall time of all attempts; attempts that run in parallel slow each other down.",
            "Rollouts: how often the agent answered a past interaction while users were prepared. Give "
            "optimizers the same number of rollouts to compare them fairly.",
            "Cached calls count no tokens and no price, so without the cache the method costs more than "
            "shown.",
            "USD: “unpriced” if no call had a known price, “≥” if some had none.",
        ],
    )


def cost_cells(method: MethodRun, stage: str) -> dict[str, Scalar]:
    """Return the cost of ``prepare`` or ``answer``, in total and per user or answer."""
    if stage == "answer":
        return _cells(method.answer, method.given_answers, "answer")
    users = method.prepared_users
    return {
        **_cells(method.prepare, users, "user"),
        "agent_runs_each": method.rollouts / users if users else None,
    }


def total_cells(costs: Sequence[Cost]) -> dict[str, Scalar]:
    """Return the sum of several costs: tokens, dollars, and calls without a known price."""
    usages = [cost.usage for cost in costs]
    return {
        "tokens": sum(usage.input_tokens + usage.output_tokens for usage in usages),
        "usd": float(sum(usage.usd for usage in usages)),
        "unpriced": sum(usage.unpriced for usage in usages),
    }


def usd_column(title: str) -> Column:
    """Return a column that shows ``usd``, marked as a lower bound if some calls are ``unpriced``."""

    def text(row: Row) -> str:
        usd = row["usd"]
        if not row["unpriced"]:
            return show(usd, 4)
        return f"≥ {show(usd, 4)}" if usd else "unpriced"

    return Column(title, text)


def _cells(cost: Cost, units: int, unit: str) -> dict[str, Scalar]:
    usage = cost.usage
    tokens = usage.input_tokens + usage.output_tokens
    return {
        "unit": unit,
        "units": units,
        "attempts": cost.attempts,
        "calls": usage.calls,
        "calls_each": usage.calls / units if units else None,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "tokens_each": tokens / units if units else None,
        "usd": float(usage.usd),
        "unpriced": usage.unpriced,
        "cache_hits": usage.cache_hits,
        "agent_runs_each": None,
        "seconds": float(cost.seconds),
        "seconds_each": cost.seconds / units if units else None,
    }
