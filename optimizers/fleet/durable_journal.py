"""A journal whose pieces and calls are steps of a DBOS workflow, in a table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from dbos import error as dbos_errors

from optimizers.fleet.steps import FinishedStep, StepWriter
from optimizers.interrupts import to_its_end

_FIRST_STEP = 1_000_000
"""DBOS numbers what it does in a workflow itself, from 1."""


class DurableJournal:
    """Keeps each finished piece as a step of a workflow.

    Args:
        kept: Steps of earlier attempts, by name.
        workflow_id: The workflow of this attempt.
        writer: Writes its steps.
    """

    def __init__(self, kept: dict[str, str], workflow_id: str, writer: StepWriter) -> None:
        self._kept = kept
        self._workflow_id = workflow_id
        self._writer = writer
        self._step = _FIRST_STEP
        self._latest: dict[str, asyncio.Future[bool]] = {}  # the latest call of each piece in progress

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the piece returned; run it first if it is not finished."""
        if name in self._kept:
            return json.loads(self._kept[name])
        try:
            output = json.dumps(await work())
        except BaseException:  # an interrupt, too, must not lose the call that was paid
            await self._latest_stored(name)
            raise
        if latest := self._latest.pop(name, None):
            self._writer.withdraw(latest)
        await self._stored(self._write(name, output))
        return json.loads(output)

    async def run_call(self, piece: str, number: int, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what a call of a piece returned; make it first if it is not finished.

        A reply is written at once, and is stored when the next call of its piece begins. The last one need
        not be: the piece itself is then finished.
        """
        name = f"{piece}/call {number}"
        if name in self._kept:
            return json.loads(self._kept[name])
        await self._latest_stored(piece)
        output = json.dumps(await work())
        self._latest[piece] = self._write(name, output)
        return json.loads(output)

    async def _latest_stored(self, piece: str) -> None:
        if latest := self._latest.pop(piece, None):
            await self._stored(latest)

    def _write(self, name: str, output: str) -> asyncio.Future[bool]:
        self._kept[name] = output
        self._step += 1
        step = FinishedStep(workflow_id=self._workflow_id, number=self._step, name=name, output=output)
        return self._writer.add(step)

    async def _stored(self, stored: asyncio.Future[bool]) -> None:
        if not await to_its_end(stored):
            raise dbos_errors.DBOSWorkflowCancelledError(f"workflow {self._workflow_id} is cancelled")
