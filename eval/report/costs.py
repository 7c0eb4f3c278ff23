"""What each method cost, preparing and answering apart, in totals and per unit."""

from __future__ import annotations

from collections.abc import Sequence

from eval.records import Cost
from eval.report.data import MethodRun, ReportRun
from eval.report.section import Section
from eval.report.table import Column, Row, Scalar, Table, plain, show


def section(run: ReportRun) -> Section:
    """Return the cost of each method of a run."""
    return Section(
        id="costs",
        title="What each method cost",
        text=[
            "Preparing (summaries, alignment) happens once for each user, off the answering path; "
            "answering once for each query. Every attempt that was paid is counted, failed ones too."
        ],
        tables=[cost_table(run)],
    )


def cost_table(run: ReportRun) -> Table:
    """Return two rows for each method: prepare, each user, and answer, each answer."""
    return Table(
        name="costs",
        title="Cost of each method",
        rows=[
            {"method": method.name, "stage": stage, **cost_cells(method, stage)}
            for method in run.methods
            for stage in ("prepare", "answer")
        ],
        columns=[
            plain("method", "Method", number=False),
            Column("Stage, each", lambda row: f"{row['stage']}, each {row['unit']}", number=False),
            plain("units", "Units"),
            plain("calls", "Calls"),
            plain("calls_each", "Calls each", digits=1),
            plain("agent_runs_each", "Agent runs each", digits=1),
            plain("cache_hits", "Calls from a cache"),
            plain("input_tokens", "Tokens in"),
            plain("output_tokens", "Tokens out"),
            plain("tokens_each", "Tokens each", digits=0),
            usd_column("USD"),
            plain("seconds", "Seconds", digits=1),
            plain("seconds_each", "Seconds each", digits=2),
        ],
        notes=[
            "Seconds are wall time of the attempts added up; attempts that ran side by side slow each other.",
            "Agent runs: how often the agent was let answer a past interaction, the budget that optimizers "
            "should share for an equal comparison.",
            "A call from a cache has no tokens and no price: what it would cost alone is more than shown.",
            "USD: “unpriced” where no call had a known price, “≥” where some had none.",
        ],
    )


def cost_cells(method: MethodRun, stage: str) -> dict[str, Scalar]:
    """Return what ``prepare`` or ``answer`` cost a method, in all and for each user or answer."""
    if stage == "answer":
        return _cells(method.answer, method.answered, "answer")
    runs = method.agent_runs / method.prepared if method.prepared else None
    return {**_cells(method.prepare, method.prepared, "user"), "agent_runs_each": runs}


def total_cells(costs: Sequence[Cost]) -> dict[str, Scalar]:
    """Return the tokens and the money of several costs together."""
    usages = [cost.usage for cost in costs]
    return {
        "tokens": sum(usage.input_tokens + usage.output_tokens for usage in usages),
        "usd": float(sum(usage.usd for usage in usages)),
        "unpriced": sum(usage.unpriced for usage in usages),
    }


def usd_column(title: str, prefix: str = "") -> Column:
    """Return a column of the cells ``usd``, honest about calls without a known price (``unpriced``)."""

    def text(row: Row) -> str:
        usd = row[f"{prefix}usd"]
        if not row[f"{prefix}unpriced"]:
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
