"""llama.cpp in the process: one loaded model for all threads, closed to other processes.

Settings that affect answers:

* Prompts are processed in batches of 32 tokens with flash attention. From 64 tokens on llama.cpp
  uses another kernel: the same prompt then gets other probabilities (by up to 0.2 nats) if a part
  of it is in the prefix cache, so answers would depend on earlier requests. This costs about 20 %
  on uncached prompts; answers are bit-identical.
* One slot. Two cores are compute-bound, threads queue, and requests are never batched together.
* Repeated greedy requests are answered from a cache: the same prompt gives the same answer anyway,
  and optimizers that start from one persona repeat the same requests.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from dspy import lm15

from program.errors import ModelSetupError
from program.models.cache import cache_answers

_BATCH_TOKENS = 32
_PROMPT_CACHE_MIB = 128
_MAX_SOCKET_PATH = 100
_CLOSE_TIMEOUT = 30.0
_INDENTS = 21
"""Number of indents, from 0, that llama.cpp's JSON grammar allows after a line break."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A GGUF file and the context length to load it with.

    Attributes:
        path: The file.
        context: Longest prompt plus answer, in tokens. Memory grows with it: 23 kB a token for
            SmolLM2-135M, 190 MB in total.
    """

    path: Path
    context: int = 8192


class Server:
    """A loaded model. Safe to share between threads; calls queue.

    Raises (all methods):
        lm15.ContextLengthError: The prompt does not fit the context.
        lm15.InvalidRequestError: The request is invalid in another way.
        lm15.ServerError: The model failed.
    """

    def __init__(self, file: ModelFile) -> None:
        """Load the model; takes about a second for 100 MB.

        Raises:
            ModelSetupError: The runtime or the file cannot be loaded.
        """
        xllamacpp = import_runtime()
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file.path)
        settings.n_ctx = file.context
        settings.n_parallel = 1
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
        settings.n_ubatch = _BATCH_TOKENS
        settings.cpuparams.n_threads = 1
        settings.cpuparams_batch.n_threads = 2
        settings.n_threads_http = 1
        settings.cache_ram_mib = _PROMPT_CACHE_MIB
        settings.verbosity = -1
        self._restrict_access(settings)
        try:
            self._server = xllamacpp.Server(settings)
        except (RuntimeError, ValueError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ModelSetupError(
                f"llama.cpp cannot load {file.path.name!r}: is it a complete GGUF file of a text model?"
            ) from error
        self.address: str = self._server.listening_address
        """The address of llama.cpp: a socket that only this user can open, and only with the key."""
        self._client = self._open_client()
        self.lock = threading.RLock()
        """Hold it over several calls whose prompts share a prefix: other prompts would evict it."""
        self._tokenize = lru_cache(maxsize=4096)(self._tokenize_uncached)
        self._cached_ask = cache_answers(self._ask, _identity(file, xllamacpp.__version__))

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an OpenAI chat body, which may also have llama.cpp's own sampling settings.

        A repeated body is answered from the cache if its temperature is 0.
        """
        ask = self._cached_ask if body.get("temperature") == 0 else self._ask
        # Keys stay unsorted: the model writes a schema's fields in this order.
        return dict(json.loads(ask("handle_chat_completions", json.dumps(body))))

    def probabilities(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a completion body with ``logprobs``; ``prompt`` may mix text and token ids.

        A repeated body is answered from the cache: the sampled token may vary, its probabilities do not.
        """
        return dict(json.loads(self._cached_ask("handle_completions", json.dumps(body))))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the token ids of ``text``, without the special tokens around a prompt.

        The name of a special token in the text is plain characters: it may be a user's.
        """
        return self._tokenize(text)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that `chat` makes of ``messages`` with the model's chat template.

        If the last message is the assistant's, the prompt ends with it, for the model to continue.
        """
        reply = self._client.post("/apply-template", json={"messages": list(messages)})
        return str(self._checked(reply.json())["prompt"])

    @cached_property
    def line_breaks(self) -> tuple[int, ...]:
        """All tokens with a line break that can separate the parts of a JSON text."""
        ids: set[int] = set()
        for breaks in ("\n", "\n\n"):
            for indent in range(_INDENTS):
                request = {"content": breaks + " " * indent, "add_special": False, "with_pieces": True}
                tokens = self._checked(self._client.post("/tokenize", json=request).json())["tokens"]
                ids.update(token["id"] for token in tokens if "\n" in str(token["piece"]))
        return tuple(sorted(ids))

    def close(self) -> None:
        """Release the model after the running call; if that takes more than 30 s, leak the model."""
        if not self.lock.acquire(timeout=_CLOSE_TIMEOUT):
            # Destroying a model during a call crashes the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        del self._server

    def _tokenize_uncached(self, text: str) -> tuple[int, ...]:
        request = {"content": text, "add_special": False, "parse_special": False}
        reply = self._client.post("/tokenize", json=request)
        return tuple(self._checked(reply.json())["tokens"])

    def _restrict_access(self, settings: Any) -> None:
        # xllamacpp always starts llama.cpp's HTTP server, which would show prompts to any local
        # process. A socket in a private folder and a random key protect it. It has to stay: only
        # the HTTP API can tokenize.
        self._key = secrets.token_hex(16)
        settings.api_keys = [self._key]
        settings.endpoint_slots = False
        settings.ui = False
        self._folder = tempfile.mkdtemp(prefix="personaagent-")
        socket = str(Path(self._folder) / "llama.sock")
        if sys.platform != "win32" and len(socket) < _MAX_SOCKET_PATH:
            settings.hostnames = [socket]

    def _open_client(self) -> Any:
        import httpx

        unix = self.address.removeprefix("unix://") if self.address.startswith("unix://") else None
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=unix),
            base_url="http://localhost" if unix else self.address,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=60.0,
            # A proxy from the environment would take over even a socket's requests.
            trust_env=False,
        )

    def _ask(self, handler: str, body: str) -> str:
        with self.lock:
            return json.dumps(self._checked(self._call(getattr(self._server, handler), json.loads(body))))

    @staticmethod
    def _call(handler: Any, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(handler(dict(body)))
        except (ValueError, RuntimeError) as error:
            # llama.cpp raises these for a bad request, such as an invalid JSON schema.
            raise lm15.InvalidRequestError(str(error)) from error

    @staticmethod
    def _checked(reply: Mapping[str, Any]) -> dict[str, Any]:
        error = reply.get("error")
        if error is None:
            return dict(reply)
        message = str(error.get("message", "unknown error"))
        if error.get("type") == "exceed_context_size_error":
            raise lm15.ContextLengthError(message)
        if 400 <= int(error.get("code", 500)) < 500:
            raise lm15.InvalidRequestError(message)
        raise lm15.ServerError(message)


def _identity(file: ModelFile, runtime: str) -> str:
    """Return everything that changes the answers to a request: the file, the context, the runtime."""
    state = file.path.stat()
    return f"{file.path} {state.st_size} {state.st_mtime_ns} {file.context} {runtime}"


_lock = threading.Lock()
_servers: dict[ModelFile, Server] = {}
_inherited_servers: list[Server] = []


def get_server(file: ModelFile) -> Server:
    """Return the process's only server for ``file``; the first call loads it.

    Raises:
        ModelSetupError: The runtime or the file cannot be loaded.
    """
    with _lock:
        if file not in _servers:
            _servers[file] = Server(file)
        return _servers[file]


@atexit.register
def _close_all() -> None:
    while _servers:
        _servers.popitem()[1].close()


def _after_fork() -> None:
    # The child has the parent's memory but not its threads: an inherited server never answers, and
    # destroying it waits for a thread that does not exist. So it stays referenced forever.
    global _lock
    _lock = threading.Lock()
    _inherited_servers.extend(_servers.values())
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def import_runtime() -> Any:
    """Return the module xllamacpp.

    Raises:
        ModelSetupError: The module or a system library is not installed.
    """
    # libgomp reads this once, when it is loaded. By default it spins while it waits, which is ten
    # times slower if other processes are busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import xllamacpp
    except ImportError as error:
        if "libgomp" in str(error):
            raise ModelSetupError(
                "the embedded model needs the system library libgomp: run `apt-get install libgomp1`"
            ) from error
        raise ModelSetupError("the embedded model needs xllamacpp: run `pip install xllamacpp`") from error
    return xllamacpp
