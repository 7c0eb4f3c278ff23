"""`personaagent align`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import typer
from rich.table import Table

from optimizers.alignment import PersonaAlignment
from optimizers.batch import examples
from optimizers.config import PAPER, AlignmentConfig
from program.agent import PersonaAgent
from program.cli.options import Json, Model, Store, Trace, TraceContent, Wikipedia, model_in_use, open_store
from program.console import PARTIAL, err, exit_code, explain, out, print_json, progress
from program.errors import BudgetExceededError, ConfigError, PersonaAgentError
from program.home import home
from program.ledger import Budget, Ledger, accounting
from program.loop import AgentSettings
from program.session import open_session
from program.store import UserStore
from program.tracing import about

Users = Annotated[list[str] | None, typer.Argument(help="User ids.", show_default=False)]


def align(
    users: Users = None,
    all_: Annotated[bool, typer.Option("--all", help="Align every user.")] = False,
    model: Model = None,
    prompt_model: Annotated[
        str | None, typer.Option(help="Model of feedback and update; default: the agent's model.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Iterations E.")] = PAPER.steps,
    batch: Annotated[int, typer.Option(help="Interactions n simulated in each step.")] = PAPER.batch_size,
    choice: Annotated[
        Literal["latest", "balanced", "hardest"], typer.Option(help="Which interactions to learn from.")
    ] = PAPER.batch,
    gate: Annotated[Literal["always", "best"], typer.Option(help="Which rewrites to keep.")] = PAPER.gate,
    skip_right: Annotated[bool, typer.Option(help="No feedback where the answer was right.")] = False,
    negatives: Annotated[
        Path | None, typer.Option(help="LaMP-1: a file with a title on each line, cited by nobody here.")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(help="Stop before this many model calls are passed.")
    ] = None,
    max_usd: Annotated[float | None, typer.Option(help="Stop once this much was spent.")] = None,
    wikipedia: Wikipedia = True,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    store: Store = None,
    json: Json = False,
) -> None:
    """Align personas with what users really answered (the paper's Algorithm 1)."""
    config = replace(PAPER, steps=steps, batch_size=batch, batch=choice, gate=gate, skip_right=skip_right)
    if bool(users) == all_:
        raise ConfigError("name the users to align, or use `--all`")
    titles = _lines(negatives)
    ledger = Ledger(Budget(max_calls=max_calls, max_usd=max_usd))
    results: list[dict[str, Any]] = []
    with open_store(store) as opened:
        chosen = list(dict.fromkeys(users or [row.user_id for row in opened.users()]))
        for user_id in chosen:
            opened.user(user_id)
        prompt_lm = _prompt_model(prompt_model)
        with (
            model_in_use(model, trace, trace_content),
            accounting(ledger),
            progress(ledger, len(chosen), "users") as advance,
        ):
            for user_id in chosen:
                results.append(_align_one(opened, user_id, config, prompt_lm, titles, wikipedia))
                advance(user_id[:24])
                if results[-1]["stop"]:
                    break
    _report(results, ledger, len(chosen), json)


def align_user(
    store: UserStore,
    user_id: str,
    config: AlignmentConfig,
    *,
    home: Path,
    prompt_model: Any = None,
    negatives: list[str] | None = None,
    wikipedia: bool = True,
    settings: AgentSettings | None = None,
) -> PersonaAgent:
    """Align one stored user with the configured model and store what came of it.

    Every finished step is stored at once. The new persona and the record become visible together;
    until then, and after any failure, the old persona stands.
    """
    session = open_session(store, user_id, home=home, wikipedia=wikipedia, settings=settings)
    around = session.agent.surroundings
    trainset = examples(around.memory, around.task, seed=config.seed, negatives=negatives or ())
    alignment_id = store.start_alignment(user_id, vars(config))
    optimizer = PersonaAlignment(
        config,
        prompt_model=prompt_model,
        on_step=lambda step: store.save_step(user_id, alignment_id, step.number, step.as_dict()),
    )
    try:
        with about(persona_version=session.version.version):
            aligned = optimizer.compile(session.agent, trainset=trainset)
    except BaseException as error:  # an interrupt, too, must not leave the alignment open
        store.fail_alignment(user_id, alignment_id, f"{type(error).__name__}: {error}")
        raise
    changed = aligned.persona != session.agent.persona
    why = aligned.alignment.steps[-1].decision.reason if aligned.alignment.steps else "no step"
    store.finish_alignment(
        user_id,
        alignment_id,
        aligned.alignment.as_dict(),
        persona=(aligned.persona, why) if changed else None,
    )
    return aligned


def _align_one(
    store: UserStore,
    user_id: str,
    config: AlignmentConfig,
    prompt_model: Any,
    negatives: list[str],
    wikipedia: bool,
) -> dict[str, Any]:
    """Align one user of several: a failure of one user is a row, an outage stops the rest."""
    row: dict[str, Any] = {"user_id": user_id, "error": None, "code": 0, "stop": False}
    try:
        aligned = align_user(
            store,
            user_id,
            config,
            home=home(),
            prompt_model=prompt_model,
            negatives=negatives,
            wikipedia=wikipedia,
        )
    except (PersonaAgentError, dspy.LMError) as error:
        row["error"] = explain(error) or str(error)
        row["code"] = exit_code(error)
        row["stop"] = isinstance(error, dspy.LMError | BudgetExceededError)
        return row
    record = aligned.alignment
    head = store.persona(user_id)
    row["persona_version"] = head.version if head else None
    row["steps"] = [
        {
            "step": step.number,
            "score": step.score,
            "accepted": step.decision.accept,
            "reason": step.decision.reason,
        }
        for step in record.steps
    ]
    row["notes"] = [step.note for step in record.steps if step.note]
    row["agent_runs"] = record.agent_runs
    row["usage"] = {stage: vars(usage) for stage, usage in record.usage.items()}
    row["seconds"] = round(record.seconds, 2)
    return row


def _report(results: list[dict[str, Any]], ledger: Ledger, asked: int, json: bool) -> None:
    failed = [row for row in results if row["error"]]
    if json:
        print_json(
            [{key: value for key, value in row.items() if key not in ("stop", "code")} for row in results]
        )
    else:
        table = Table("user", "persona", "score of each step", "agent runs", "calls", "seconds", "", box=None)
        for row in results:
            if row["error"]:
                continue
            scores = ", ".join("-" if s["score"] is None else f"{s['score']:.2f}" for s in row["steps"])
            calls = sum(usage["calls"] for usage in row["usage"].values())
            notes = "; ".join([*row["notes"], *(s["reason"] for s in row["steps"] if not s["accepted"])])
            table.add_row(
                row["user_id"],
                f"v{row['persona_version']}",
                scores,
                str(row["agent_runs"]),
                str(calls),
                f"{row['seconds']:.1f}",
                notes,
            )
        if len(failed) < len(results):
            out.print(table)
    for row in failed:
        err.print(f"error: user {row['user_id']!r}: {row['error']}", style="red", markup=False)
    usage = ledger.total()
    err.print(
        f"{len(results) - len(failed)} of {asked} users aligned, {usage.calls} calls, "
        f"{usage.input_tokens + usage.output_tokens:,} tokens, ${usage.usd:.4f}"
        f"{' or more' if usage.unpriced else ''}, {ledger.seconds:.0f} s"
    )
    if failed:
        raise typer.Exit(PARTIAL if len(failed) < len(results) else failed[0]["code"])


def _prompt_model(spec: str | None) -> Any:
    if spec is None:
        return None
    from program.models.resolve import resolve_lm

    return resolve_lm(spec)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read `--negatives` {path}: {error}") from error
