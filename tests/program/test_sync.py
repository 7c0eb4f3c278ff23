"""`run_now` runs a coroutine without an event loop."""

from __future__ import annotations

import asyncio

import pytest

from program.sync import run_now


def test_run_now_returns_the_result_and_passes_errors_on() -> None:
    async def divide(by: int) -> float:
        return 1 / by

    assert run_now(divide(4)) == 0.25
    with pytest.raises(ZeroDivisionError):
        run_now(divide(0))


def test_run_now_rejects_and_closes_a_coroutine_that_waits() -> None:
    closed = []

    async def wait() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="suspended"):
        run_now(wait())
    assert closed == [True]
