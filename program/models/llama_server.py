"""llama.cpp inside the process: one model in memory for all threads, and nobody else can reach it.

Choices that change answers:

* Prompts are read in pieces of 32 tokens with flash attention on. From 64 tokens on llama.cpp
  takes another kernel, and the same prompt then has other probabilities (by up to 0.2 nats) when
  a part of it was in the prefix cache, so answers would depend on what was asked before. This
  costs about 20 % on prompts that are read for the first time; answers are bit-identical.
* One slot. Two cores are compute-bound, threads queue, and requests are never computed together.
* What was asked before, word for word and greedily, is answered from memory: the same prompt gives
  the same answer anyway, and optimizers that start from one persona ask the same things.
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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from dspy import lm15

from program.errors import ModelSetupError
from program.models.cache import remember_answers

_TOKENS_AT_ONCE = 32
_PROMPT_CACHE_MIB = 128
_LONGEST_SOCKET_PATH = 100
_LONGEST_GOODBYE = 30.0
_DEEPEST_INDENT = 21
"""One more than the blanks that llama.cpp's JSON grammar allows after a line break."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A GGUF file and how it is loaded.

    Attributes:
        path: The file.
        context: Longest prompt plus answer, in tokens. Memory grows with it: 23 kB a token for
            SmolLM2-135M, 190 MB in all.
    """

    path: Path
    context: int = 8192


class Server:
    """A loaded model. Safe to share between threads; calls queue.

    Raises (all methods):
        lm15.ContextLengthError: The prompt does not fit the context.
        lm15.InvalidRequestError: Something else in the request cannot be served.
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
        settings.n_ubatch = _TOKENS_AT_ONCE
        settings.cpuparams.n_threads = 1
        settings.cpuparams_batch.n_threads = 2
        settings.n_threads_http = 1
        settings.cache_ram_mib = _PROMPT_CACHE_MIB
        settings.verbosity = -1
        self._close_doors(settings)
        try:
            self._server = xllamacpp.Server(settings)
        except (RuntimeError, ValueError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ModelSetupError(
                f"llama.cpp cannot load {file.path.name!r}: is it a complete GGUF file of a text model?"
            ) from error
        self.address: str = self._server.listening_address
        """Where llama.cpp listens: a socket that only this user can open, with a key."""
        self._client = self._open_client()
        self.turn = threading.RLock()
        """Hold it over several calls whose prompts share a beginning: no other prompt comes between."""
        self._tokenize = lru_cache(maxsize=4096)(self._tokenize_uncached)
        self._ask_once = remember_answers(self._ask, _identity(file, xllamacpp.__version__))

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an OpenAI chat body, with llama.cpp's own sampling settings allowed beside it.

        A repeated body is answered from memory if its temperature is 0.
        """
        ask = self._ask_once if body.get("temperature") == 0 else self._ask
        # Never with sorted keys: the order of a schema's fields is the order in which they are written.
        return dict(json.loads(ask("handle_chat_completions", json.dumps(body))))

    def probabilities(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a completion body whose ``logprobs`` are wanted; ``prompt`` may mix text and token ids.

        A repeated body is answered from memory: the token drawn may differ, its probabilities do not.
        """
        return dict(json.loads(self._ask_once("handle_completions", json.dumps(body))))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the token ids of ``text``, without the tokens that open or close a prompt."""
        return self._tokenize(text)

    @cached_property
    def line_breaks(self) -> tuple[int, ...]:
        """Every token with a line break that may stand between the parts of a JSON text."""
        found: set[int] = set()
        for breaks in ("\n", "\n\n"):
            for indent in range(_DEEPEST_INDENT):
                request = {"content": breaks + " " * indent, "add_special": False, "with_pieces": True}
                tokens = self._checked(self._client.post("/tokenize", json=request).json())["tokens"]
                found.update(token["id"] for token in tokens if "\n" in str(token["piece"]))
        return tuple(sorted(found))

    def close(self) -> None:
        """Release the model once a running call has ended; one that takes too long is left alone."""
        if not self.turn.acquire(timeout=_LONGEST_GOODBYE):
            # A model that is destroyed under a running call crashes the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        del self._server

    def _tokenize_uncached(self, text: str) -> tuple[int, ...]:
        reply = self._client.post("/tokenize", json={"content": text, "add_special": False})
        return tuple(self._checked(reply.json())["tokens"])

    def _close_doors(self, settings: Any) -> None:
        # xllamacpp always opens llama.cpp's HTTP server, which would show prompts to any local
        # process. A socket in a folder only this user may enter, plus a key nobody knows, closes
        # it; we need it ourselves, because only this door can tokenize.
        self._key = secrets.token_hex(16)
        settings.api_keys = [self._key]
        settings.endpoint_slots = False
        settings.ui = False
        self._folder = tempfile.mkdtemp(prefix="personaagent-")
        socket = str(Path(self._folder) / "llama.sock")
        if sys.platform != "win32" and len(socket) < _LONGEST_SOCKET_PATH:
            settings.hostnames = [socket]

    def _open_client(self) -> Any:
        import httpx

        unix = self.address.removeprefix("unix://") if self.address.startswith("unix://") else None
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=unix),
            base_url="http://localhost" if unix else self.address,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=60.0,
            # A proxy of the environment would take even a socket's requests.
            trust_env=False,
        )

    def _ask(self, handler: str, body: str) -> str:
        with self.turn:
            return json.dumps(self._checked(self._call(getattr(self._server, handler), json.loads(body))))

    @staticmethod
    def _call(handler: Any, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(handler(dict(body)))
        except (ValueError, RuntimeError) as error:
            # llama.cpp raises what it finds while it reads the request, such as a bad JSON schema.
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
    """Return what changes a model's answers, beside what it is asked."""
    state = file.path.stat()
    return f"{file.path} {state.st_size} {state.st_mtime_ns} {file.context} {runtime}"


_lock = threading.Lock()
_servers: dict[ModelFile, Server] = {}
_parents_servers: list[Server] = []


def get_server(file: ModelFile) -> Server:
    """Return the process's one server for ``file``, loading it at the first call.

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
    # The child has the parent's memory but not its threads: a server of the parent would never
    # answer, and destroying it would wait for a thread that does not exist. So it is kept for good.
    global _lock
    _lock = threading.Lock()
    _parents_servers.extend(_servers.values())
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def import_runtime() -> Any:
    """Return the module xllamacpp.

    Raises:
        ModelSetupError: It, or a system library it needs, is not installed.
    """
    # libgomp reads this once, when it is loaded. Its default spins while it waits, which costs
    # a factor of ten beside other busy processes.
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
