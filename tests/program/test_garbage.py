"""Collections of garbage: rare in a block, and as before after the last one."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from program.garbage import few_collections


class Ring:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


def test_blocks_in_several_threads_share_it_and_the_last_one_restores_what_was() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with few_collections():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with few_collections():
        thread.start()
        assert entered.wait(10)
        rarely = gc.get_threshold()
    assert gc.get_threshold() == rarely > before
    assert gc.get_freeze_count() > frozen
    leave.set()
    thread.join()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, frozen)


def test_what_the_program_itself_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with few_collections():
            pass
        assert gc.get_freeze_count() >= frozen > 0
    finally:
        gc.unfreeze()


def test_it_ends_with_an_error_too() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="stop"), few_collections():
        raise ValueError("stop")
    assert gc.get_threshold() == before


def test_cycles_made_inside_are_still_collected_and_those_from_before_afterwards() -> None:
    gc.collect()  # so that none comes of itself before the block
    old = weakref.ref(Ring())
    with few_collections():
        young = weakref.ref(Ring())
        gc.collect()
        assert young() is None
        assert old() is not None
    gc.collect()
    assert old() is None
