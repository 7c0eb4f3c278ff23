"""How a plan is printed."""

from __future__ import annotations

from optimizers.fleet.plan import BatchPlan, UserPlan
from program.console import err, out, print_json
from program.printer import make_table
from program.text import counted


def print_plan(plan: BatchPlan, *, json: bool) -> None:
    """Print a plan as a table and a summary, or as JSON."""
    if json:
        print_json(plan.as_dict())
        return
    if plan.users:
        titles = ("user", "interactions", "stale", "rollouts", "calls", "")
        out.print(make_table(titles, [_cells(user) for user in plan.users], fold=("user", "")))
    working = sum(user.plan is not None for user in plan.users)
    low, high = plan.calls
    err.print_line(
        f"{working} of {counted(len(plan.users), 'user')} would be aligned, with {low:,} to {high:,} calls"
    )
    if not working:
        return
    inputs, outputs = (round(tokens) for tokens in plan.tokens_per_call)
    basis = (
        f"the mean of {counted(plan.measured_on, 'earlier call')}"
        if plan.measured_on
        else "a guess from the lengths of the texts, since no earlier alignment used this model"
    )
    fewest, most = plan.tokens
    usd = plan.usd
    cost = (
        "price unknown: give `--price-in` and `--price-out`"
        if usd is None
        else f"${usd[0]:.4f} to ${usd[1]:.4f}"
    )
    err.print_line(
        f"estimate: {fewest:,} to {most:,} tokens, {cost} (a call: {inputs:,} in, {outputs:,} out; {basis})"
    )


def _cells(user: UserPlan) -> tuple[str, ...]:
    low, high = user.calls
    return (
        user.user_id,
        f"{user.interactions:,}",
        "yes" if user.stale else "no",
        str(user.plan.n_rollouts) if user.plan else "",
        (f"{low} to {high}" if low != high else str(low)) if user.plan else "0",
        user.why,
    )
