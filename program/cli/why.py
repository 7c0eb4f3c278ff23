"""`personaagent why`: what a persona, or one answer, rests on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from program.cli.options import MAX_INTEGER, Json, Store, User, open_store
from program.console import out, print_json
from program.errors import StoreError, UnknownVersionError
from program.home import home
from program.printer import command
from program.store import UserStore
from program.text import counted, one_line
from program.why import Cause, Why, WhyLine, explain

_SHOWN = 5
_CHARS = 160
NOT_RECORDED = "Which of these the model followed is not recorded: it was told all of them at once."


def why(
    user: User,
    answer: Annotated[
        str | None,
        typer.Argument(
            help="An answer of the user's agent: its text or a part of it, the first characters of its trace "
            "id, or `last`."
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, max=MAX_INTEGER, help="A persona version; default: the current one.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say why a persona says what it says, or why an answer was given.

    Each line of the persona, the feedback that led to it, the interactions that it rests on, the version
    that brought it and what the gate decided. With ANSWER: what was asked, what memory showed, and what the
    persona said then, from the traces of this machine.
    """
    with open_store(store) as users:
        users.user(user)
        if answer is None:
            found = explain(users, user, version)
            current = found.persona.version == users.user(user).persona_version
            if json:
                print_json({"current": current, **found.as_dict()})
            else:
                _print_persona(found, current=current)
            return
        _why_answer(users, user, answer, json=json)


def _print_persona(found: Why, *, current: bool) -> None:
    out.print_line(_heading(found, "the current persona" if current else "not the current persona"), "bold")
    if found.review:
        out.print_line(f"Later interactions: {_decision(found.review)}")
    if found.lines is None:
        out.print_line("It was written freely: nothing is known of what each line rests on.")
        _print_cause(found.cause, found)
        return
    if not found.lines:
        out.print_line("It says nothing about the user: no fact or line has been added.")
    for line in found.lines:
        _print_line(line, found)


def _heading(found: Why, what: str) -> str:
    cause = found.cause
    outcome = f", {found.outcome}" if found.outcome else ""
    return f"v{cause.version}, {what}{outcome}: {cause.source} of {cause.at:%Y-%m-%d %H:%M} UTC, {cause.why}"


def _print_line(line: WhyLine, found: Why) -> None:
    out.print_line(f"{line.text}  ({line.origin})")
    for name, text in line.feedback[:_SHOWN]:
        out.print_line(f"    feedback  {name}: {one_line(text, _CHARS)}")
    for name in line.interaction_ids[-_SHOWN:][::-1]:
        out.print_line(f"    rests on  {_interaction(name, found)}", style="dim")
    if (others := len(line.interaction_ids) - _SHOWN) > 0:
        out.print_line(f"              and {counted(others, 'other interaction')}", style="dim")
    if line.decision:
        out.print_line(f"    decided   v{line.since}: {_decision(line.decision)}", style="dim")


def _print_cause(cause: Cause, found: Why) -> None:
    for name, text in cause.feedback.items():
        out.print_line(f"    feedback  {name}: {one_line(text, _CHARS)}")
        answered = f" (the agent said {one_line(cause.answers[name], 40)})" if cause.answers.get(name) else ""
        out.print_line(f"              {_interaction(name, found)}{answered}", style="dim")
    for decision in cause.decisions.values():
        out.print_line(f"    decided   v{cause.version}: {_decision(decision)}", style="dim")


def _interaction(name: str, found: Why) -> str:
    if name not in found.interactions:
        return f"{name}: forgotten"
    item = found.interactions[name]
    return f"{name}: {one_line(item.query, _CHARS)} → {one_line(item.response, _CHARS)}"


def _decision(decision: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in (decision.get("numbers") or {}).items())
    verdict = decision.get("outcome") or ("accepted" if decision.get("accept") else "rejected")
    return f"{verdict}, {decision.get('reason')}" + (f" ({numbers})" if numbers else "")


def _why_answer(users: UserStore, user: str, wanted: str, *, json: bool) -> None:
    from program.tracing.server.trace_store import TraceStore
    from program.tracing.setup import store_path
    from program.tracing.view.answers import find_answer

    path = store_path(home())
    if not path.exists():
        raise StoreError(f"no traces yet in {str(path)!r}, and answers stand only there; trace with `ask`")
    with closing(TraceStore(path)) as traces:
        found = find_answer(traces, user, wanted)
    said = _persona_then(users, user, found.persona_version)
    told = None if said is None or said.lines is None else said.lines
    if json:
        data = {name: value for name, value in asdict(found).items() if name != "prompt"}
        rows = None if told is None or said is None else said.as_dict()["lines"]
        for row, line in zip(rows or (), told or (), strict=True):
            row["in_prompt"] = line.text in found.prompt if found.prompt else None
        print_json(
            {**data, "persona_is_current": _is_current(users, user, found.persona_version), "lines": rows}
        )
        return
    out.print_line(f"asked      {found.query}")
    out.print_line(f"answered   {found.answer}", style="bold")
    what = "" if found.kind == "ask" else f", a rollout or test ({found.kind}): nobody was told it"
    out.print_line(f"when       {found.at[:19].replace('T', ' ')} UTC, trace {found.trace_id[:8]}{what}")
    if found.others:
        out.print_line(f"           {counted(found.others, 'other answer')} match; name a trace id to choose")
    known = {item.id: item for item in users.interactions(user)}
    for lookup in found.lookups:
        out.print_line(f"looked up  {lookup.call}")
        for name in lookup.interaction_ids:
            item = known.get(name)
            shown = (
                "forgotten"
                if item is None
                else f"{one_line(item.query, _CHARS)} → {one_line(item.response, 80)}"
            )
            out.print_line(f"    {name}: {shown}", style="dim")
    if not found.lookups:
        out.print_line("looked up  nothing")
    _print_persona_then(users, user, found.persona_version, said, found.prompt)
    out.print_line(f"All messages: `{command('trace show', found.trace_id[:8])}`", style="dim")


def _persona_then(users: UserStore, user: str, version: int | None) -> Why | None:
    try:
        return None if version is None else explain(users, user, version)
    except UnknownVersionError:
        return None


def _is_current(users: UserStore, user: str, version: int | None) -> bool | None:
    return None if version is None else version == users.user(user).persona_version


def _print_persona_then(
    users: UserStore, user: str, version: int | None, said: Why | None, prompt: str
) -> None:
    if version is None:
        out.print_line("persona    not recorded: this answer was traced without the store's version")
        return
    if said is None:
        out.print_line(f"persona    v{version}, which is no longer stored")
        return
    now = users.user(user).persona_version
    current = "still the current one" if version == now else f"now it is v{now}"
    out.print_line(f"persona    {_heading(said, current)}")
    if said.lines is None:
        out.print_line("It was written freely: nothing is known of what each line rests on.")
        return
    if not said.lines:
        out.print_line(
            "It said nothing about the user: the answer rests on what was looked up, and the model."
        )
        return
    for line in said.lines:
        _print_line(line, said)
        if prompt and line.text not in prompt:
            out.print_line("    not in the prompt word by word: a fact is counted again for each prompt")
    if not prompt:
        out.print_line("The prompt itself is not traced; these are the lines of the version, as of today.")
    out.print_line(NOT_RECORDED)
