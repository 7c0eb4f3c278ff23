"""One HTML page about a user's persona: what it says, what each line rests on, and what was tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from program.csp import csp_hash
from program.errors import UnknownVersionError
from program.memory.interaction import Interaction
from program.provenance import ExplainedLine, explain_lines, parts_by_version
from program.saved import write_text
from program.store import UserStore
from program.store.records import AlignmentRow
from program.task import get_task
from program.text import counted, one_line
from program.text_safety import printable

_SHOWN = 12
_CHARS = 110


def persona_page(store: UserStore, user_id: str) -> str:
    """Return the page as HTML: all text escaped, no scripts, no network access.

    Args:
        store: The user's store.
        user_id: A stored user with a persona.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        UnknownVersionError: The user has no persona yet.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.add_persona("ana", "Be brief.", source="edit", why="she said so")
        ...     page = persona_page(store, "ana")
        >>> "Be brief.</pre>" in page
        True
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from program.evidence import collect

    user = store.user(user_id)
    history, versions = store.interactions(user_id), store.persona_history(user_id)
    if not versions:
        raise UnknownVersionError(f"user {user_id!r} has no persona yet")
    until_now = versions[: user.pinned]  # newer ones than a pinned version are not in use
    numbered, evidence = parts_by_version(until_now), collect(history, get_task(user.task))
    parts = numbered[-1][1]
    lines = None if parts is None else explain_lines(numbered, evidence)
    folder = Path(__file__).with_name("templates")
    css = (folder / "persona.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(counted=counted, day=_day)
    return environment.get_template("persona.html.jinja").render(
        user=user,
        current=until_now[-1],
        # As the next prompt has it: facts are counted again.
        text=until_now[-1].text if parts is None else parts.render(evidence),
        lines=None if lines is None else [_line(line, history) for line in lines],
        steps=[step for row in store.alignments(user_id)[::-1] for step in _steps(row)],
        versions=versions[::-1],
        css=Markup(css),
        css_hash=csp_hash(css),
    )


def write_page(path: Path, html: str) -> None:
    """Write the page to a file that only its owner can read.

    Raises:
        DataError: The file cannot be written.
    """
    write_text(path, html)


def _line(line: ExplainedLine, history: Sequence[Interaction]) -> dict[str, Any]:
    known = {item.id: item for item in history}
    shown = line.interaction_ids[-_SHOWN:][::-1]
    return {
        **vars(line),
        "interactions": [
            _interaction(known[name]) if name in known else f"{name}: forgotten" for name in shown
        ],
        "others": len(line.interaction_ids) - len(shown),
    }


def _interaction(item: Interaction) -> str:
    query, response = (one_line(text, _CHARS) for text in (item.query, item.response))
    day = f"{_day(item.timestamp)}: " if item.timestamp else ""
    return f"{day}{query} → {response}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _steps(row: AlignmentRow) -> Iterator[dict[str, Any]]:
    """Yield what each step of an alignment tested. Records of earlier versions have no checks."""
    if review := row.record.get("review"):
        note = f"{review['outcome']}: {review['reason']}"
        yield {
            "title": f"{_day(row.started_at)}, later interactions",
            "note": note,
            "checks": [],
            "refusals": [],
        }
    for step in row.record.get("steps", ()):
        checks = step.get("checks") or []
        likelihood = any(check["bound"] < 1 for check in checks)
        yield {
            "title": f"{_day(row.started_at)}, step {step.get('number', 1)}",
            "measure": "Probability of the true answer" if likelihood else "Agreement",
            "checks": [_check(check) for check in checks],
            "refusals": [f"{r['edit']}: {r['reason']}" for r in step.get("refusals") or ()],
            "note": step.get("note") or (step.get("decision") or {}).get("reason", ""),
        }


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    decision, n = check["decision"], len(check["parent"])
    return {
        "change": "\n".join(check["changes"]) or "a rewrite of the whole text",
        "outcome": decision["outcome"],
        "n": n,
        "before": f"{fmean(check['parent']):.2f}" if n else "-",
        "after": f"{fmean(check['candidate']):.2f}" if n else "-",
        "reason": decision["reason"],
    }
