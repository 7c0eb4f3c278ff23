"""The update: from the feedback of a batch to the personas that a gate decides on.

The paper's update rewrites the whole text. Edits change single lines, each with the interactions that it
rests on; for a model that cannot write, code proposes to show other facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizers.contracts import Candidate
from optimizers.editing import Source, apply_edits, propose_facts
from optimizers.edits import Edit
from optimizers.loss import UpdatePersona
from optimizers.prompting import ask_edits, number_feedback
from optimizers.record import Feedback
from optimizers.run import AlignmentRun, writes
from optimizers.trials import Refusal
from program.corrections import fit, keep_corrections
from program.persona import Line, Persona
from program.spans import span
from program.text import counted

MOST_REJECTED = 12
"""Most rejected edits that an update reads, the newest ones."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What an update proposes.

    Attributes:
        candidates: Personas to decide on; empty if nothing is to change.
        refusals: Edits that code refused.
        note: What went wrong without stopping the step; empty otherwise.
    """

    candidates: Sequence[Candidate] = ()
    refusals: Sequence[Refusal] = ()
    note: str = ""


async def propose(run: AlignmentRun, feedback: Sequence[Feedback]) -> Proposal:
    """Return the personas to decide on."""
    if not run.config.edits:
        proposal = await _rewrite(run, feedback)
    elif writes(run.prompt_model):
        proposal = await _edit(run, feedback)
    else:
        proposal = _show_other_facts(run)
    run.rejected += map(str, proposal.refusals)
    limit = run.agent.context.settings.max_input_chars
    cuts = f"feedback saw {counted(run.n_cut, 'text')} cut to {limit} characters" if run.n_cut else ""
    return replace(proposal, note="; ".join(filter(None, (proposal.note, cuts))))


async def _rewrite(run: AlignmentRun, feedback: Sequence[Feedback]) -> Proposal:
    """Ask for a new text (the paper's LLM_update)."""
    persona = run.agent.persona
    texts = [item.text for item in feedback if item.text]
    if not texts:
        return Proposal(note="no feedback, so nothing to change")
    numbered = number_feedback(texts)
    with span("update", persona=persona, feedback=numbered) as trace:
        rewrite = await run.ask("update", "", UpdatePersona, current_system_prompt=persona, feedback=numbered)
        trace.output(persona=rewrite)
    if rewrite is None:
        return Proposal(note="the rewrite could not be used twice, the old persona stays")
    kept = keep_corrections(rewrite, run.agent.parts)
    if isinstance(kept, str):
        return Proposal(candidates=[Candidate(persona=kept)])
    kept = fit(kept, run.agent.context.evidence_at(None, ()))
    return Proposal(candidates=[Candidate(persona=kept)], note="what the user corrected was put back")


async def _edit(run: AlignmentRun, feedback: Sequence[Feedback]) -> Proposal:
    """Ask for edits of the persona's lines. They can rest on the interactions of the batch alone."""
    given = [item for item in feedback if item.text]
    if not given:
        return Proposal(note="no feedback, so nothing to change")
    persona, numbered = _parts(run), number_feedback([item.text for item in given])
    taken_out = [f"add {line.text!r}: the user took this out" for line in persona.removed[-MOST_REJECTED:]]
    with span("update", persona=run.agent.persona, feedback=numbered) as trace:
        edits = await _ask_edits(
            run,
            facts=run.named_facts(persona.facts),
            lines="\n".join(_numbered(n, line) for n, line in enumerate(persona.lines, 1)) or "none yet",
            feedback=numbered,
            rejected="\n".join(f"- {text}" for text in [*run.rejected[-MOST_REJECTED:], *taken_out])
            or "none",
        )
        trace.output(edits=edits)
    if edits is None:
        return Proposal(note="the edits could not be read twice, the old persona stays")
    ids = {number: item.interaction_id for number, item in enumerate(given, 1)}
    learned_from = [example for example in run.batch if example.before in ids.values()]
    source = Source(
        ids=ids,
        texts=[str(text) for example in learned_from for text in (example.query, example.response)],
        max_chars=run.config.max_chars,
        max_edits=run.config.max_edits,
    )
    shown = run.agent.context.evidence_at(None, ())
    candidate, refusals = apply_edits(persona, edits, source, shown)
    if candidate is not None:
        return Proposal(candidates=[candidate], refusals=refusals)
    note = "every edit was refused" if refusals else "the feedback calls for no edit"
    return Proposal(refusals=refusals, note=note)


def _numbered(number: int, line: Line) -> str:
    return f"{number}. {line.text}{' (written by the user: it stays)' if line.corrected else ''}"


async def _ask_edits(run: AlignmentRun, **inputs: str) -> list[Edit] | None:
    async def work() -> list[dict[str, object]] | None:
        edits = await ask_edits(lm=run.prompt_model, wait=run.wait, **inputs)
        return None if edits is None else [edit.model_dump(mode="json") for edit in edits]

    edits = await run.pieces.run(run.agent.persona, "", "update", work)
    return None if edits is None else [Edit.model_validate(edit) for edit in edits]


def _show_other_facts(run: AlignmentRun) -> Proposal:
    candidates = propose_facts(_parts(run), run.evidence(), most=run.config.candidates, rejected=run.rejected)
    return Proposal(candidates=candidates, note="" if candidates else "there are no other facts to show")


def _parts(run: AlignmentRun) -> Persona:
    return run.agent.parts or Persona.of_text(run.agent.persona)
