"""`personaagent fleet` and `personaagent worker`."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Annotated, Literal

import typer

from optimizers.config import PRESETS, preset_named
from optimizers.fleet.batch import Batch
from optimizers.fleet.control import FleetStatus, is_unused, open_control
from optimizers.fleet.users import CONCURRENCY
from program.cli.options import (
    Adapter,
    Json,
    MaxCalls,
    MaxCallsPerUser,
    MaxUsd,
    MaxUsdPerUser,
    Model,
    PriceIn,
    PriceOut,
    Store,
    Trace,
    Wikipedia,
    open_store,
)
from program.console import err, out, print_json
from program.errors import ConfigError
from program.home import home
from program.limits import MOST_STEPS
from program.printer import make_table
from program.store import UserStore
from program.text import counted

app = typer.Typer(no_args_is_help=True, help="Look at alignments of many users, and control them.")

Users = Annotated[list[str] | None, typer.Argument(help="User ids.", show_default=False)]


@app.callback()
def _root() -> None:
    pass


@app.command()
def status(store: Store = None, json: Json = False) -> None:
    """Show the latest alignment of each user: queued, running, interrupted, stopped, failed or done."""
    with open_store(store) as opened:
        if is_unused(opened, home()):
            _print_status(None, json)
            return
        with open_control(opened, home()) as control:
            _print_status(control.status(), json)


def _print_status(fleet: FleetStatus | None, json: bool) -> None:
    users = fleet.users if fleet else []
    if json:
        print_json([vars(user) for user in users])
        return
    if users:
        cells = [
            (user.user_id, user.state, str(user.pieces), f"{user.started_at:%Y-%m-%d %H:%M} UTC", user.error)
            for user in users
        ]
        out.print(make_table(("user", "state", "kept pieces", "started", ""), cells, fold=("user", "")))
    states = Counter(user.state for user in users)
    err.print_line(", ".join(f"{n:,} {state}" for state, n in sorted(states.items())) or "no alignment yet")
    if fleet is None:
        return
    for each in fleet.schedules:
        last = f", last {each['last']}" if each["last"] else ""
        err.print_line(f"scheduled: {each['cron']} {each['timezone']}{last}")
    needs_worker = states["queued"] or fleet.schedules
    if fleet.worker_lives:
        err.print_line("a worker lives")
    elif needs_worker:
        err.print_line("no worker lives: start `personaagent worker`")
    if fleet.latest_paid.calls:
        err.print_line(f"the latest run paid {fleet.latest_paid}")
    if waiting := states["failed"] + states["interrupted"] + states["stopped"] + states["cancelled"]:
        err.print_line(
            f"`personaagent align` or `personaagent fleet retry` goes on with {counted(waiting, 'user')} "
            "from what is kept"
        )


@app.command()
def cancel(
    users: Users = None,
    all_: Annotated[bool, typer.Option("--all", help="Cancel everybody who is queued or running.")] = False,
    store: Store = None,
) -> None:
    """Cancel alignments that are queued or running; what is paid is kept."""
    if bool(users) == all_:
        raise ConfigError("name the users to cancel, or use `--all`")
    with open_store(store) as opened:
        _check_users(opened, users)
        cancelled: list[str] = []
        if not is_unused(opened, home()):
            with open_control(opened, home()) as control:
                cancelled = control.cancel(users)
    for user_id in cancelled:
        out.print_line(user_id)
    err.print_line(f"cancelled {counted(len(cancelled), 'user')}")


@app.command()
def retry(users: Users = None, store: Store = None) -> None:
    """Queue users again who failed, stopped, or were cancelled, with the settings of the latest run.

    A `personaagent worker` takes them. Without users: all of them.
    """
    with open_store(store) as opened:
        _check_users(opened, users)
        queued: list[str] = []
        worker_lives = False
        if not is_unused(opened, home()):
            with open_control(opened, home()) as control:
                queued = control.retry(users or [])
                worker_lives = control.worker_lives()
    for user_id in queued:
        out.print_line(user_id)
    hint = "" if worker_lives or not queued else "; start `personaagent worker` to align them"
    err.print_line(f"queued {counted(len(queued), 'user')}{hint}")


@app.command()
def schedule(
    cron: Annotated[
        str, typer.Argument(help='When, as cron: "0 3 * * *" is 03:00 each day.', show_default=False)
    ],
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of these times, such as Europe/Berlin; default: UTC.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Align every user; default: those with new interactions.")
    ] = False,
    model: Model = None,
    prompt_model: Annotated[
        str | None, typer.Option(help="Model of feedback and update; default: the agent's model.")
    ] = None,
    preset: Annotated[str, typer.Option(help=f"Settings: {' or '.join(PRESETS)}.")] = "grounded",
    max_calls: MaxCalls = None,
    max_usd: MaxUsd = None,
    max_calls_per_user: MaxCallsPerUser = None,
    max_usd_per_user: MaxUsdPerUser = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    wikipedia: Wikipedia = True,
    trace: Trace = "local",
    adapter: Adapter = None,
    store: Store = None,
) -> None:
    """Let a `personaagent worker` align users at fixed times; the limits are those of each time.

    A second schedule replaces the first one.
    """
    which: Literal["all", "stale"] = "all" if all_ else "stale"
    batch = Batch(
        users=which,
        config=preset_named(preset),
        model=model,
        prompt_model=prompt_model,
        adapter=adapter,
        wikipedia=wikipedia,
        max_calls=max_calls,
        max_usd=max_usd,
        max_calls_per_user=max_calls_per_user,
        max_usd_per_user=max_usd_per_user,
        price_in=price_in,
        price_out=price_out,
        trace=trace,
    )
    with open_store(store) as opened, open_control(opened, home()) as control:
        control.schedule(cron, batch, timezone)
        worker_lives = control.worker_lives()
    hint = "" if worker_lives else "; start `personaagent worker`, which begins it"
    err.print_line(f"scheduled: {cron} {timezone or 'UTC'}, {which} users{hint}")


@app.command()
def unschedule(store: Store = None) -> None:
    """End the schedule."""
    with open_store(store) as opened:
        ended = False
        if not is_unused(opened, home()):
            with open_control(opened, home()) as control:
                ended = control.unschedule()
    err.print_line("the schedule is ended" if ended else "there is no schedule")


def worker(
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_STEPS, help="Most model calls in flight of this worker, and most users at once."
        ),
    ] = CONCURRENCY,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when nobody is queued, instead of waiting for more.")
    ] = False,
    store: Store = None,
) -> None:
    """Align users whom `align`, `fleet retry` or a schedule queued, until Ctrl-C.

    Any number of workers share a store on a PostgreSQL server, or a file on one machine. If one of them ends
    in whatever way, another takes over its users. Ctrl-C or SIGTERM ends the users in progress first; the
    second one leaves them to other workers.
    """
    with open_store(store) as opened:
        asyncio.run(_work(opened, concurrency, drain))


async def _work(store: UserStore, concurrency: int, drain: bool) -> None:
    from optimizers.fleet.engines import check_durable

    check_durable()
    from optimizers.fleet.worker import Worker, work_until

    ended: Counter[str] = Counter()

    def say(user_id: str, status: str, line: str) -> None:
        ended[status] += 1
        err.print_line(f"{user_id}: {status}{f', {line}' if line else ''}")

    stop, now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            now.set()
        else:
            err.print_line("stopping: finishes the users in progress; press Ctrl-C again to stop at once")
            stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    err.print_line("waits for users; Ctrl-C ends it")
    try:
        await work_until(
            Worker(store, home(), concurrency=concurrency, on_result=say), stop, now, until_empty=drain
        )
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        counts = ", ".join(f"{n:,} {status}" for status, n in sorted(ended.items()))
        err.print_line(f"ended: {counts or 'nobody was queued'}")


def _check_users(store: UserStore, users: list[str] | None) -> None:
    for user_id in users or []:
        store.user(user_id)
