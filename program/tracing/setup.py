"""Switches tracing on: to the local trace file, to W&B, or off.

The destination is always explicit: a W&B key in the environment does not send anything.
"""

from __future__ import annotations

import atexit
import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from program.errors import ConfigError, StoreError
from program.home import home as default_home
from program.processes import is_dead, process_name
from program.side_files import is_damage, set_aside
from program.spans import tracing
from program.text import one_line
from program.tracing.content import Content, ContentPolicy, Redact, installation_key, redact_secrets
from program.tracing.limits import trace_limits
from program.tracing.server.schema import DamagedTracesError
from program.tracing.server.trace_store import TraceStore
from program.tracing.weave import private_api
from program.tracing.weave.tracer import WeaveTracer

logger = logging.getLogger("personaagent.program.tracing")

LOCAL_PROJECT = "local/personaagent"
"""The Weave project of the local store."""

_WANDB = re.compile(r"wandb:([^/\s]+/[^/\s]+)")
_MAX_REASON_CHARS = 300
_FLUSH_TIMEOUT = 20.0
"""Seconds to wait, at the end, for a remote server to accept the remaining records."""


def store_path(home: Path) -> Path:
    """Return the path of the local trace file."""
    return home / "traces.db"


@contextmanager
def open_tracer(
    where: str,
    *,
    home: Path | None = None,
    content: Content = "full",
    redact: Redact | None = redact_secrets,
) -> Iterator[WeaveTracer | None]:
    """Trace everything inside the block; yield the tracer, or ``None`` if nothing is traced.

    ``personaagent trace show`` prints the latest local trace. If ``PERSONAAGENT_TRACE_OLDER_THAN`` (as
    ``30d``) or ``PERSONAAGENT_TRACE_MAX_MB`` is set, local traces beyond these limits are removed first.
    If W&B cannot be reached, traces go to the local file, with a warning. A damaged trace file is set aside
    as ``traces.db.damaged-TIME``, and a file that cannot be used switches tracing off, each with a warning;
    the block always runs. Replaces Weave's current client until the block ends.

    Args:
        where: ``local`` (a SQLite file in ``home``; opens no socket), ``wandb:ENTITY/PROJECT``, or
            ``off``.
        home: The data directory; ``None`` for `program.home.home`.
        content: How much of each text is stored; see `ContentPolicy`.
        redact: Applied to every stored text; ``None`` changes nothing.

    Raises:
        ConfigError: ``where`` or ``content`` is unknown, W&B has no key, or a limit cannot be read.

    Example:
        >>> import dspy
        >>> from program import open_tracer, scripted_lm
        >>> lm = scripted_lm(lambda system, user: {"answer": "Mint."})
        >>> with open_tracer("local"), dspy.context(lm=lm):
        ...     dspy.Predict("question -> answer")(question="Which tea?").answer
        'Mint.'
    """
    remote = _WANDB.fullmatch(where)
    if where == "off":
        yield None
        return
    if where != "local" and remote is None:
        raise ConfigError(f"cannot trace to {where!r}; use local, off or wandb:ENTITY/PROJECT")
    if remote is not None and not private_api.has_wandb_key():
        raise ConfigError(f"{where!r} needs a key: set WANDB_API_KEY, or trace with `local`")
    home = default_home() if home is None else home
    ContentPolicy(content=content, key=b"")
    try:
        key = installation_key(home)
    except OSError as error:
        logger.warning(
            "tracing is off: cannot use the trace key in %r: %s", str(home), error.strerror or error
        )
        yield None
        return
    policy = ContentPolicy(content=content, key=key, redact=redact)
    private_api.prepare_environment()
    with ExitStack() as cleanup:
        tracer = _remote_tracer(cleanup, remote[1], policy) if remote else None
        if tracer is None:
            tracer = _local_tracer(cleanup, home, policy)
        if tracer is None:
            yield None
            return
        import dspy

        from program.tracing.weave.dspy_callback import TraceCallback

        callbacks = [*dspy.settings.callbacks, TraceCallback(tracer)]
        with tracing(tracer), dspy.context(callbacks=callbacks):
            yield tracer


def _remote_tracer(cleanup: ExitStack, project: str, policy: ContentPolicy) -> WeaveTracer | None:
    restore = private_api.install_client(None)
    try:
        client = private_api.remote_client(project)
    except Exception as error:  # noqa: BLE001 - weave may raise anything; the run must go on
        restore()
        logger.warning("W&B cannot be reached (%s); tracing to the local store", type(error).__name__)
        return None
    cleanup.callback(restore)
    tracer = WeaveTracer(client, policy)
    _close_once(cleanup, tracer, lambda: _flush_or_abandon(client))
    return tracer


def _local_tracer(cleanup: ExitStack, home: Path, policy: ContentPolicy) -> WeaveTracer | None:
    store = _open_store(home)
    if store is None:
        return None
    cleanup.callback(_close_store, store)
    client = private_api.local_client(store, LOCAL_PROJECT)
    cleanup.callback(private_api.install_client(client))
    tracer = WeaveTracer(client, policy, process=process_name())
    _close_once(cleanup, tracer, client.flush)
    return tracer


def _open_store(home: Path) -> TraceStore | None:
    """Open the local trace file. A damaged one is set aside; ``None``, with a warning, without any."""
    path, limits = store_path(home), trace_limits()
    try:
        for _ in range(2):
            file = _file_id(path)
            try:
                store = TraceStore(path)
                try:
                    store.interrupt_dead(LOCAL_PROJECT, is_dead)
                    if limits:
                        store.prune(LOCAL_PROJECT, before=limits.before, max_bytes=limits.max_bytes)
                except sqlite3.Error as error:
                    if not is_damage(error):
                        return store
                    store.close()
                    raise DamagedTracesError(str(error)) from error
                return store
            except DamagedTracesError:
                _set_store_aside(path, file)
        return TraceStore(path)
    except (StoreError, OSError, sqlite3.Error) as error:
        logger.warning("tracing is off: %s", one_line(str(error), _MAX_REASON_CHARS))
        return None


def _close_store(store: TraceStore) -> None:
    file = _file_id(store.path)
    with suppress(sqlite3.Error):
        store.close()
    if store.database.damage is not None:
        with suppress(OSError):
            _set_store_aside(store.path, file)


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _set_store_aside(path: Path, file: tuple[int, int] | None) -> None:
    # Another process may have put a new file in its place.
    if _file_id(path) == file:
        logger.warning("the trace store was damaged and is now %r; a new one is used", set_aside(path).name)


def _close_once(cleanup: ExitStack, tracer: WeaveTracer, flush: Callable[[], None]) -> None:
    """End open spans and flush when the block ends, or at exit if the block never ends.

    Otherwise Weave waits minutes at exit for open calls to end.
    """
    closed = threading.Event()

    def close() -> None:
        # A block that is still open at exit is unwound a second time, when threads cannot start.
        if closed.is_set():
            return
        closed.set()
        atexit.unregister(close)
        tracer.interrupt()
        tracer.records.attempt(flush)
        if tracer.dropped:
            logger.warning("%d trace records could not be written", tracer.dropped)

    atexit.register(close)
    cleanup.callback(close)


def _flush_or_abandon(client: Any) -> None:
    # A dead server must not keep the program from ending.
    worker = threading.Thread(target=client.flush, daemon=True)
    worker.start()
    worker.join(_FLUSH_TIMEOUT)
    if worker.is_alive():
        private_api.abandon(client)
        raise TimeoutError(f"the trace server did not answer within {_FLUSH_TIMEOUT:.0f} s")
