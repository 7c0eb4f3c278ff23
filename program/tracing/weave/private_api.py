"""Every name of weave that is not its public API, in one place: what to look at when it moves.

Weave's own tests build clients the same way. Checked with weave 0.54 by the contract tests.
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
    # No reports to Sentry, no patches of other libraries, no links that lead nowhere.
    "WANDB_ERROR_REPORTING": "false",
    "WEAVE_IMPLICITLY_PATCH_INTEGRATIONS": "false",
    "WEAVE_PRINT_CALL_LINK": "false",
    "WEAVE_LOG_LEVEL": "CRITICAL",
    # The cache would be a world-readable file in the temp directory, with user text in its keys.
    "WEAVE_USE_SERVER_CACHE": "false",
    # Would write what could not be sent into the current directory.
    "WEAVE_ENABLE_DISK_FALLBACK": "false",
    "WEAVE_CAPTURE_CODE": "false",
    "WEAVE_CAPTURE_CLIENT_INFO": "false",
    "WEAVE_CAPTURE_SYSTEM_INFO": "false",
    # Reading a stored object must never run stored Python.
    "WEAVE_ALLOW_UNSAFE_CUSTOM_OBJ_DECODE": "false",
    # Bounds how long an unreachable server can hold up the start: three tries.
    "WEAVE_HTTP_TIMEOUT": "10",
    # Importing litellm would otherwise ask GitHub for prices.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

logger = logging.getLogger("personaagent.program.tracing")

_IN_PROCESS = "http://weave.local"
_RESOURCES = ("calls", "v2_calls", "objects", "tables", "refs", "files", "feedback", "costs", "services")


def prepare_environment() -> None:
    """Set what weave reads from the environment, before its first import; the user's values win."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Weave's own use of old names is no news to our users, and no error where warnings are errors.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"weave(\.|$)")


def local_client(store: TraceStore, project: str) -> Any:
    """Return a Weave client whose server is the store, in this process, without a socket.

    Args:
        store: Where everything goes.
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
            answer = store.handle(request.method, path, headers, request.read())
            # The answer of a file does not get better by asking again.
            sent = {"content-type": answer.content_type, "x-should-retry": "false"}
            return httpx.Response(answer.status, headers=sent, content=answer.body)

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
    # Two threads that first touch the vendored client at once can deadlock in its lazy imports.
    for resource in _RESOURCES:
        getattr(server._stainless_client, resource)
    return WeaveClient(entity, name, server, ensure_project_exists=False)


def _is_real_request(record: logging.LogRecord) -> bool:
    # httpx logs every request at INFO: ours would look as if something had left the machine.
    return _IN_PROCESS not in record.getMessage()


class _SayOnce(logging.Handler):
    """Turns weave's pages of tracebacks about records that were not taken into one line."""

    _said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            logger.warning("the trace server did not take some records; the run goes on without them")


def remote_client(project: str) -> Any:
    """Return a client of the W&B server the environment names, made by ``weave.init``.

    Raises:
        Exception: Whatever weave raises where the server cannot be reached or refuses the key.
    """
    import weave
    from weave.trace import init_message, weave_init

    lost = logging.getLogger("weave.trace_server_bindings")
    lost.setLevel(logging.ERROR)
    lost.propagate = False
    lost.handlers = [_SayOnce()]
    with ExitStack() as swapped:
        # It would export the OpenTelemetry spans of the whole application, not only ours.
        swapped.enter_context(_replaced(weave_init, "_setup_conversation_tracing"))
        # It would ask pypi.org for a newer weave.
        swapped.enter_context(_replaced(init_message, "_print_version_check"))
        return weave.init(project)


@contextmanager
def _replaced(module: Any, name: str) -> Iterator[None]:
    """Make a function of weave do nothing inside the block."""
    original = getattr(module, name)
    setattr(module, name, lambda *_args: None)
    try:
        yield
    finally:
        setattr(module, name, original)


def abandon(client: Any) -> None:
    """Give up what a client has not sent: at exit weave would go on trying, for ever if need be."""
    for processor in (client.server.get_call_processor(), client.server.get_feedback_processor()):
        if processor is None:
            continue
        atexit.unregister(processor.stop_accepting_new_work_and_flush_queue)
        processor.stop_accepting_work_event.set()
        with suppress(queue.Empty):
            while True:
                processor.queue.get_nowait()


def has_wandb_key() -> bool:
    """Return whether a W&B key is in the environment or in the netrc file, without using it."""
    import netrc
    from urllib.parse import urlsplit

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        found = netrc.netrc(Path(os.environ.get("NETRC", Path.home() / ".netrc"))).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None


def install_client(client: Any) -> Callable[[], None]:
    """Make ``client`` (or ``None``) Weave's current client; return what puts the one before back."""
    from weave.trace.context import weave_client_context as context

    def install(one: Any) -> None:
        context.set_weave_client_global(None)
        if one is not None:
            context.set_weave_client_global(one)

    before = context.get_weave_client()
    install(client)
    return lambda: install(before)


def close_evaluation(log: Any, error: BaseException | None) -> None:
    """Let go of an EvaluationLogger, which weave would otherwise keep, rows and all, until exit."""
    from weave.evaluation import eval_imperative

    log.finish(error)
    if log in eval_imperative._active_evaluation_loggers:
        eval_imperative._active_evaluation_loggers.remove(log)


def make_call(**fields: Any) -> Any:
    """Return a call record as Weave keeps it on its stack while it is open."""
    from weave.trace.call import Call

    return Call(_op_name=fields.pop("op_name"), **fields)


def call_stack() -> Any:
    """Return Weave's own stack of open calls: ``push_call``, ``pop_call``, ``get_current_call``."""
    from weave.trace.context import call_context

    return call_context
