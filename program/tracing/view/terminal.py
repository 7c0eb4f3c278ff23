"""Renders traces for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from program.printer import cell
from program.text import one_line
from program.text_safety import printable
from program.tracing.view.personas import PersonaChange, diff_lines
from program.tracing.view.reader import CallLine, CallNode

_STYLES = {
    "error": "red",
    "damaged": "red",
    "descendant_error": "yellow",
    "interrupted": "magenta",
    "running": "cyan",
}
_TEXT_CHARS = 300
_WORDS = {"descendant_error": "failed below", "error": "failed", "success": "ok"}


def traces_table(lines: Sequence[CallLine]) -> Table:
    """Return a table of traces."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    # In a narrow terminal, names are cut and numbers are not.
    table.add_column("trace", no_wrap=True, min_width=8)
    table.add_column("what", no_wrap=True, min_width=8)
    for title in ("user", "run"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("started (UTC)", no_wrap=True, min_width=14)
    for title, width in (("sec", 6), ("calls", 5), ("tokens", 7), ("cost", 4)):
        table.add_column(title, justify="right", no_wrap=True, min_width=width)
    table.add_column("status", no_wrap=True, min_width=6)
    for line in lines:
        table.add_row(
            line.trace_id[:8],
            cell(line.title or line.name),
            cell(line.user_id or ""),
            cell(line.run_id or ""),
            line.started[5:19].replace("T", " "),
            _seconds(line),
            str(line.model_calls or ""),
            f"{line.tokens:,}" if line.tokens else "",
            _cost(line),
            cell(_WORDS.get(line.status, line.status), style=_STYLES.get(line.status, "green")),
        )
    return table


def trace_tree(node: CallNode) -> Tree:
    """Return a call tree with durations, tokens, cost and decisions."""
    tree = Tree(_label(node), guide_style="dim")
    for child in node.children:
        tree.add(trace_tree(child))
    return tree


def persona_table(changes: Sequence[PersonaChange]) -> Table:
    """Return a table of a user's personas, oldest first."""
    table = Table(box=None, pad_edge=False)
    for title in ("persona", "from", "when (UTC)", "source", "decision", "trace"):
        table.add_column(title)
    for change in changes:
        decision = change.detail.get("decision") or {}
        reason = str(decision.get("reason") or change.detail.get("why") or "")
        table.add_row(
            change.label,
            _parent(change),
            change.at[:19].replace("T", " "),
            cell(change.source),
            cell(reason),
            change.trace_id[:8],
        )
    return table


def persona_diff(before: PersonaChange, after: PersonaChange, between: Sequence[PersonaChange]) -> Text:
    """Return the diff of two personas, and the decisions and feedback of the steps between them."""
    text = Text()
    for line in diff_lines(before.text, after.text) or ["(the texts are equal)"]:
        text.append(printable(line) + "\n", style={"+": "green", "-": "red", "@": "dim"}.get(line[:1], ""))
    for change in between:
        text.append(f"\n{_parent(change) or 'new'} to {change.label}, {change.at[:19]}\n", style="bold")
        if why := change.detail.get("why"):
            text.append(printable(f"{change.source}: {why}\n"))
        decision = change.detail.get("decision") or {}
        if decision:
            verdict = "accepted" if decision.get("accept") else "rejected"
            text.append(printable(f"{verdict}: {decision.get('reason')}\n"))
        for item in change.detail.get("feedback") or ():
            feedback = item.get("text") or f"(none: {item.get('skipped')})"
            text.append(printable(f"  {item.get('interaction_id')}: {feedback}\n"))
    return text


def _parent(change: PersonaChange) -> str:
    sign = "#" if change.label.startswith("#") else "v"
    return "" if change.parent is None else f"{sign}{change.parent}"


def _label(node: CallNode) -> Text:
    line = node.line
    text = cell(line.name if not line.title.startswith(line.name) else "")
    text.append(cell(line.title if line.title.startswith(line.name) else f" {line.title}".rstrip(), "bold"))
    text.append(f"  {_seconds(line)}s" if line.seconds is not None else "", style="dim")
    if line.tokens:
        facts = f"{line.model_calls} model calls, " if line.model_calls > 1 else ""
        text.append(f"  {facts}{line.tokens:,} tokens {_cost(line)}".rstrip(), style="dim")
    if line.status != "success":
        text.append(cell(f"  {_WORDS.get(line.status, line.status)}", _STYLES.get(line.status, "")))
    if node.decision:
        verdict = "accepted" if node.decision.get("accept") else "rejected"
        text.append(cell(f"  {verdict}: {node.decision.get('reason')}", "bold"))
    for label, said in node.texts.items():
        style = "red" if label == "failed" else ""
        text.append("\n").append(f"{label:9}", "dim").append(cell(one_line(said, _TEXT_CHARS), style))
    # A narrow terminal cuts each line, so that the tree stays a tree.
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _seconds(line: CallLine) -> str:
    return "" if line.seconds is None else f"{line.seconds:.2f}"


def _cost(line: CallLine) -> str:
    if line.usd == 0.0 and line.unpriced:
        return ""
    return f"${line.usd:.4f}{'+' if line.unpriced else ''}" if line.tokens else ""
