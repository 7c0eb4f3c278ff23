"""All uses of Weave's private API. Check this file when Weave is upgraded.

Weave's own tests build clients the same way. The contract tests run with weave 0.54.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from program.tracing.server.trace_store import TraceStore

_ENVIRONMENT = {
    # No reports to Sentry, no patches of other libraries, no dead links.
    "WANDB_ERROR_REPORTING": "false",
    "WEAVE_IMPLICITLY_PATCH_INTEGRATIONS": "false",
    "WEAVE_PRINT_CALL_LINK": "false",
    "WEAVE_LOG_LEVEL": "CRITICAL",
    # The cache would be a world-readable file in the temp directory, with user text in its keys.
    "WEAVE_USE_SERVER_CACHE": "false",
    # It would write unsent records to the current directory.
    "WEAVE_ENABLE_DISK_FALLBACK": "false",
    "WEAVE_CAPTURE_CODE": "false",
    "WEAVE_CAPTURE_CLIENT_INFO": "false",
    "WEAVE_CAPTURE_SYSTEM_INFO": "false",
    # Reading an object must never run stored Python code.
    "WEAVE_ALLOW_UNSAFE_CUSTOM_OBJ_DECODE": "false",
    # Seconds per try; with three tries, an unreachable server delays the start by 30.
    "WEAVE_HTTP_TIMEOUT": "10",
    # Importing litellm would otherwise ask GitHub for prices.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

logger = logging.getLogger("personaagent.program.tracing")

_IN_PROCESS = "http://weave.local"
_RESOURCES = ("calls", "v2_calls", "objects", "tables", "refs", "files", "feedback", "costs", "services")


def prepare_environment() -> None:
    """Set Weave's environment variables before its first import. The user's values win."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Weave itself uses deprecated names; our users cannot change that.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"weave(\.|$)")


def local_client(store: TraceStore, project: str) -> Any:
    """Return a Weave client that writes to ``store`` in this process, without a socket.

    Args:
        store: The open trace file.
        project: ``entity/project``.
    """
    import httpx
    from weave.trace.weave_client import WeaveClient
    from weave.trace_server_bindings.remote_http_trace_server import RemoteHTTPTraceServer
    from weave.vendor.weave_server_sdk import Client

    class StoreTransport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            path = request.url.raw_path.decode()
            response = store.handle(request.method, path, headers, request.read())
            # A retry cannot change the answer of a local file.
            headers = {"content-type": response.content_type, "x-should-retry": "false"}
            return httpx.Response(response.status, headers=headers, content=response.body)

    class InProcessServer(RemoteHTTPTraceServer):  # type: ignore[misc]
        def _rebuild_client(self) -> None:
            self._stainless_client = Client(
                base_url=_IN_PROCESS,
                username="",
                password="",
                default_headers=self._compose_headers(),
                http_client=httpx.Client(transport=StoreTransport()),
            )

        def call_start(self, req: Mapping[str, Any]) -> Any:
            start = req["start"]
            store.call_start(start)
            return {"id": start["id"], "trace_id": start["trace_id"]}

        def call_end(self, req: Mapping[str, Any]) -> Any:
            store.call_end(req["end"])
            return {}

    logging.getLogger("httpx").addFilter(_is_real_request)
    entity, _, name = project.partition("/")
    server = InProcessServer(_IN_PROCESS, should_batch=False)
    # The client imports its resources lazily, and two threads that do so at once can deadlock.
    for resource in _RESOURCES:
        getattr(server._stainless_client, resource)
    return WeaveClient(entity, name, server, ensure_project_exists=False)


def _is_real_request(record: logging.LogRecord) -> bool:
    # httpx logs every request at INFO, as if in-process requests had left the machine.
    return _IN_PROCESS not in record.getMessage()


class _WarnOnce(logging.Handler):
    """Replaces Weave's tracebacks about rejected records by one warning."""

    _warned = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("the trace server rejected some records; the run goes on without them")


def remote_client(project: str) -> Any:
    """Return a client of the W&B server that the environment names, created by ``weave.init``.

    Raises:
        Exception: Any exception of Weave, if the server cannot be reached or refuses the key.
    """
    import weave
    from weave.trace import init_message, weave_init

    sender_log = logging.getLogger("weave.trace_server_bindings")
    sender_log.setLevel(logging.ERROR)
    sender_log.propagate = False
    sender_log.handlers = [_WarnOnce()]
    with ExitStack() as disabled:
        # It would export the OpenTelemetry spans of the whole application, not only ours.
        disabled.enter_context(_disable(weave_init, "_setup_conversation_tracing"))
        # It would ask pypi.org for a newer weave.
        disabled.enter_context(_disable(init_message, "_print_version_check"))
        return weave.init(project)


@contextmanager
def _disable(module: Any, name: str) -> Iterator[None]:
    """Make one of Weave's functions do nothing inside the block."""
    original = getattr(module, name)
    setattr(module, name, lambda *_args: None)
    try:
        yield
    finally:
        setattr(module, name, original)


def abandon(client: Any) -> None:
    """Drop a client's unsent records; otherwise Weave may retry forever at exit."""
    for processor in (client.server.get_call_processor(), client.server.get_feedback_processor()):
        if processor is None:
            continue
        atexit.unregister(processor.stop_accepting_new_work_and_flush_queue)
        processor.stop_accepting_work_event.set()
        with suppress(queue.Empty):
            while True:
                processor.queue.get_nowait()


def has_wandb_key() -> bool:
    """Return whether the environment or the netrc file has a W&B key. Does not use the key."""
    import netrc
    from urllib.parse import urlsplit

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        login = netrc.netrc(Path(os.environ.get("NETRC", Path.home() / ".netrc"))).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return False
    return login is not None


def install_client(client: Any) -> Callable[[], None]:
    """Make ``client`` (or ``None``) Weave's current client; return a function that undoes it."""
    from weave.trace.context import weave_client_context as context

    def install(current: Any) -> None:
        context.set_weave_client_global(None)
        if current is not None:
            context.set_weave_client_global(current)

    previous = context.get_weave_client()
    install(client)
    return lambda: install(previous)


def close_evaluation(log: Any, error: BaseException | None) -> None:
    """Finish an EvaluationLogger and free its rows, which Weave would keep until exit."""
    from weave.evaluation import eval_imperative

    log.finish(error)
    if log in eval_imperative._active_evaluation_loggers:
        eval_imperative._active_evaluation_loggers.remove(log)


def make_call(**fields: Any) -> Any:
    """Return a call record for Weave's stack of open calls."""
    from weave.trace.call import Call

    return Call(_op_name=fields.pop("op_name"), **fields)


def call_stack() -> Any:
    """Return Weave's stack of open calls: ``push_call``, ``pop_call``, ``get_current_call``."""
    from weave.trace.context import call_context

    return call_context
