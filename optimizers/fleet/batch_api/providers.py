"""The batch APIs of OpenAI and Anthropic: submit, find again, look, read, delete.

A batch is created by one request that is never simply repeated: unless that is known to have failed, the
list of the provider's batches is looked through first. OpenAI's batches carry our id as metadata. Anthropic's
carry nothing of ours: those that are newer than the newest one before, with as many requests, are told apart
by the ids in their results.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, BinaryIO, Literal, Protocol
from urllib.parse import urlsplit

import dspy
import httpx
from dspy.utils.exceptions import LMConfigurationError

from optimizers.fleet.batch_api.tables import Batch, Reply
from program.text import one_line

MAX_REASON = 200
_PAGE = 100
_DAY = 86_400.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_TIMEOUT = httpx.Timeout(60.0, read=600.0, write=600.0)

logger = logging.getLogger("personaagent.optimizers")


@dataclass(frozen=True)
class Door:
    """Where the requests of a model go; those with the same door may be in one batch.

    Attributes:
        api: The kind of batch API.
        base: The address, as ``https://api.openai.com/v1``.
        endpoint: What answers a single request there, as ``/v1/chat/completions``.
        model: The provider's name of the model.
        headers: Headers with the key.
    """

    api: str
    base: str
    endpoint: str
    model: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True)
class Look:
    """What the provider says about a batch.

    Attributes:
        state: ``running``; ``ended`` with results; ``failed`` as a whole; ``gone`` if it is unknown.
        answered: Requests that are answered so far.
        reason: Why it failed.
        code: The provider's code of the failure.
        results: Ids of the files with results.
        files: Ids of all files.
    """

    state: Literal["running", "ended", "failed", "gone"]
    answered: int = 0
    reason: str = ""
    code: str = ""
    results: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


Line = tuple[str, Reply | None]
"""The id of a request and its answer; ``None`` if it has none and may be asked again."""

Holds = Callable[[str], Awaitable[bool]]
"""Whether a request of this id is in the batch that is looked for."""


class BatchAPI(Protocol):
    """One kind of batch API."""

    max_requests: int
    max_bytes: int

    def line(self, request_id: str, body: bytes, door: Door) -> bytes:
        """Return a request as it stands in the file of a batch."""
        ...

    async def mark(self, http: Http) -> dict[str, Any] | None:
        """Return what `find` needs to know of the time before the batch is created."""
        ...

    async def create(self, http: Http, batch: Batch, lines: Iterable[bytes], door: Door) -> str:
        """Create a batch with one request that is not repeated, and return the provider's id.

        Raises:
            Uncertain: It may have been created.
        """
        ...

    async def find(self, http: Http, batch: Batch, known: set[str], holds: Holds, poll: float) -> str | None:
        """Return the provider's id of a batch that may have been created; ``None`` if it was not."""
        ...

    async def look(self, http: Http, remote_id: str) -> Look:
        """Return how far a batch is."""
        ...

    def results(self, http: Http, remote_id: str, look: Look) -> AsyncIterator[Line]:
        """Read the results, line by line. A line that cannot be read is left out."""
        ...

    async def delete(self, http: Http, remote_id: str, look: Look) -> None:
        """Delete what the provider keeps of users' texts, as far as it lets us."""
        ...


class Uncertain(Exception):
    """A request that creates something failed so that it may have been carried out."""


class Http:
    """Requests to one provider, repeated while it is away.

    Args:
        door: Where to, with which key.
        patience: Seconds that the provider may be away.
    """

    def __init__(self, door: Door, patience: float) -> None:
        self._base = door.base
        self._model = door.model
        self._patience = patience
        self._client = httpx.AsyncClient(headers=dict(door.headers), timeout=_TIMEOUT, follow_redirects=True)

    async def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET, or ``None`` for status 404."""
        return await self.repeat(lambda: self._client.get(self._base + path, params=params), missing=True)

    async def upload(self, path: str, **form: Any) -> Any:
        """Return the JSON of a POST of a form; to repeat it does no harm."""
        return await self.repeat(lambda: self._client.post(self._base + path, **form))

    async def create(self, path: str, **content: Any) -> Any:
        """Return the JSON of one POST.

        Raises:
            Uncertain: It failed so that it may have been carried out, or is refused for now.
        """
        try:
            response = await self._client.post(self._base + path, **content)
        except httpx.TransportError as error:
            raise Uncertain(type(error).__name__) from error
        if response.status_code == 429 or response.status_code >= 500:
            raise Uncertain(f"status {response.status_code}")
        return self._checked(response)

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """Read a file line by line; a failure on the way begins anew, so a line may come twice."""
        pause, since = _FIRST_PAUSE, None
        while True:
            try:
                async with self._client.stream("GET", self._base + path) as response:
                    if response.status_code != 200:
                        await response.aread()
                        if response.status_code != 429 and response.status_code < 500:
                            self._checked(response)
                        raise httpx.TransportError(f"status {response.status_code}")
                    rest = b""
                    async for chunk in response.aiter_bytes():
                        *whole, rest = (rest + chunk).split(b"\n")
                        for line in whole:
                            yield line
                    if rest:
                        yield rest
                    return
            except httpx.TransportError as error:
                since, pause = await self._wait(since, pause, error, None)

    async def delete(self, path: str) -> None:
        """Delete something if that is possible now."""
        with suppress(httpx.HTTPError):
            await self._client.delete(self._base + path)

    async def repeat(self, send: Callable[[], Awaitable[httpx.Response]], *, missing: bool = False) -> Any:
        """Return the JSON of a reply; send again while the provider is away."""
        pause, since = _FIRST_PAUSE, None
        while True:
            failure: Exception
            asked = None
            try:
                response = await send()
                if missing and response.status_code == 404:
                    return None
                if response.status_code != 429 and response.status_code < 500:
                    return self._checked(response)
                with suppress(ValueError):
                    asked = float(response.headers.get("retry-after", ""))
                failure = httpx.TransportError(f"status {response.status_code}")
            except httpx.TransportError as error:
                failure = error
            since, pause = await self._wait(since, pause, failure, asked)

    async def _wait(
        self, since: float | None, pause: float, failure: Exception, asked: float | None
    ) -> tuple[float, float]:
        now = asyncio.get_running_loop().time()
        since = now if since is None else since
        seconds = pause if asked is None else max(asked, 0.0)
        if now + seconds > since + self._patience:
            reason = one_line(str(failure) or repr(failure), MAX_REASON)
            raise dspy.LMProviderError(
                f"the batch API at {self._base} is away ({reason}); what is submitted is kept: run the same "
                "command later",
                model=self._model,
            ) from failure
        logger.info("the batch API at %s is away; trying again in %.0f s", self._base, seconds)
        await asyncio.sleep(seconds)
        return since, min(2 * pause, _LONGEST_PAUSE)

    def _checked(self, response: httpx.Response) -> Any:
        status = response.status_code
        if status < 300:
            try:
                return response.json()
            except ValueError:
                status = 0
        reason = one_line(_message(response), MAX_REASON)
        if status in (401, 403):
            raise dspy.LMAuthError(reason, model=self._model, status=status)
        if status == 402:
            raise dspy.LMBillingError(reason, model=self._model, status=status)
        what = "has no batch API" if status in (0, 404, 405) else f"refused the batch with status {status}"
        raise LMConfigurationError(
            f"the server at {self._base} {what} ({reason}): use another model or `--engine online`",
            model=self._model,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


class OpenAIBatches:
    """``/v1/files`` and ``/v1/batches``."""

    max_requests = 50_000
    max_bytes = 200_000_000

    def line(self, request_id: str, body: bytes, door: Door) -> bytes:
        """Return one line of the file."""
        head = f'{{"custom_id":"{request_id}","method":"POST","url":"{door.endpoint}","body":'
        return head.encode() + body + b"}\n"

    async def mark(self, http: Http) -> None:
        """Need nothing: the metadata has our id."""

    async def create(self, http: Http, batch: Batch, lines: Iterable[bytes], door: Door) -> str:
        """Upload the file, then create the batch."""
        with tempfile.TemporaryFile() as file:
            await asyncio.to_thread(file.writelines, lines)

            async def send() -> httpx.Response:
                file.seek(0)
                return await http._client.post(
                    f"{door.base}/files",
                    data={"purpose": "batch"},
                    files={"file": (_file_name(batch), file, "application/jsonl")},
                )

            uploaded = await http.repeat(send)
        reply = await http.create(
            "/batches",
            json={
                "input_file_id": uploaded["id"],
                "endpoint": door.endpoint,
                "completion_window": "24h",
                "metadata": {"personaagent": batch.id},
            },
        )
        return str(reply["id"])

    async def find(self, http: Http, batch: Batch, known: set[str], holds: Holds, poll: float) -> str | None:
        """Look for our id in the metadata, newest batch first."""
        async for listed in _listed(http, "/batches", "after"):
            if (listed.get("metadata") or {}).get("personaagent") == batch.id:
                return str(listed["id"])
            # The two clocks may differ by a day.
            if float(listed.get("created_at") or 0.0) < batch.created_at - _DAY:
                break
        # A file that became no batch holds users' texts.
        async for file in _listed(http, "/files", "after", purpose="batch"):
            if file.get("filename") == _file_name(batch):
                await http.delete(f"/files/{file['id']}")
        return None

    async def look(self, http: Http, remote_id: str) -> Look:
        """Read the batch."""
        reply = await http.get(f"/batches/{remote_id}")
        if reply is None:
            return Look("gone")
        counts = reply.get("request_counts") or {}
        answered = int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
        names = ("output_file_id", "error_file_id", "input_file_id")
        results, files = (tuple(str(reply[n]) for n in part if reply.get(n)) for part in (names[:2], names))
        status = reply.get("status")
        if status == "failed":
            errors: list[dict[str, Any]] = (reply.get("errors") or {}).get("data") or [{}]
            first = errors[0]
            reason = str(first.get("message") or "no reason given")
            return Look("failed", reason=reason, code=str(first.get("code") or ""), files=files)
        ended = status in ("completed", "expired", "cancelled")
        reason = "it was cancelled" if status == "cancelled" else ""
        return Look("ended" if ended else "running", answered, reason, results=results, files=files)

    async def results(self, http: Http, remote_id: str, look: Look) -> AsyncIterator[Line]:
        """Read the file of outputs and that of errors."""
        for file_id in look.results:
            async for line in http.lines(f"/files/{file_id}/content"):
                data = _json(line)
                if data is None:
                    continue
                response = data.get("response")
                if isinstance(response, dict) and "status_code" in response:
                    reply = Reply(int(response["status_code"]), json.dumps(response.get("body")))
                    yield str(data["custom_id"]), reply
                else:  # it expired, or the provider failed: it says so in `error`
                    yield str(data["custom_id"]), None

    async def delete(self, http: Http, remote_id: str, look: Look) -> None:
        """Delete the files; the batch itself holds no text."""
        for file_id in look.files:
            await http.delete(f"/files/{file_id}")


_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches:
    """``/v1/messages/batches``."""

    max_requests = 100_000
    max_bytes = 256_000_000

    def line(self, request_id: str, body: bytes, door: Door) -> bytes:
        """Return one element of the list of requests."""
        return f'{{"custom_id":"{request_id}","params":'.encode() + body + b"}"

    async def mark(self, http: Http) -> dict[str, Any] | None:
        """Return the newest batch there is, by the provider's clock."""
        page = await http.get("/messages/batches", limit=1)
        listed = page.get("data") if page else None
        return {key: listed[0].get(key) for key in ("id", "created_at")} if listed else None

    async def create(self, http: Http, batch: Batch, lines: Iterable[bytes], door: Door) -> str:
        """Send all requests at once."""
        with tempfile.TemporaryFile() as file:
            commas = chain([b'{"requests":['], repeat(b","))
            await asyncio.to_thread(file.writelines, chain.from_iterable(zip(commas, lines, strict=False)))
            file.write(b"]}")
            headers = {"content-type": "application/json", "content-length": str(file.tell())}
            reply = await http.create("/messages/batches", content=_chunks(file), headers=headers)
        return str(reply["id"])

    async def find(self, http: Http, batch: Batch, known: set[str], holds: Holds, poll: float) -> str | None:
        """Look through the batches that are newer than the mark; results tell whether one is ours."""
        candidates = []
        async for listed in _listed(http, "/messages/batches", "after_id"):
            if batch.mark is not None:
                if listed["id"] == batch.mark["id"]:
                    break
                if str(listed.get("created_at")) < str(batch.mark["created_at"]):
                    break
            counts = (listed.get("request_counts") or {}).values()
            if listed["id"] not in known and sum(map(int, counts)) == batch.requests:
                candidates.append(str(listed["id"]))
        for remote_id in reversed(candidates):
            while (look := await self.look(http, remote_id)).state == "running":
                await asyncio.sleep(poll)
            if look.state == "ended":
                async for request_id, _ in self.results(http, remote_id, look):
                    if await holds(request_id):
                        return remote_id
                    break
        return None

    async def look(self, http: Http, remote_id: str) -> Look:
        """Read the batch."""
        reply = await http.get(f"/messages/batches/{remote_id}")
        if reply is None:
            return Look("gone")
        counts = reply.get("request_counts") or {}
        answered = sum(int(counts.get(key) or 0) for key in ("succeeded", "errored"))
        ended = reply.get("processing_status") == "ended"
        cancelled = ended and int(counts.get("canceled") or 0) > 0
        return Look("ended" if ended else "running", answered, "it was cancelled" if cancelled else "")

    async def results(self, http: Http, remote_id: str, look: Look) -> AsyncIterator[Line]:
        """Read the file of results. Its address is ours to make, so that the key goes nowhere else."""
        async for line in http.lines(f"/messages/batches/{remote_id}/results"):
            data = _json(line)
            if data is None:
                continue
            result = data.get("result") or {}
            if result.get("type") == "succeeded":
                yield str(data["custom_id"]), Reply(200, json.dumps(result.get("message")))
            elif result.get("type") == "errored":
                error: dict[str, Any] = result.get("error") or {}
                inner = error["error"] if isinstance(error.get("error"), dict) else error
                body = json.dumps({"type": "error", "error": inner})
                yield str(data["custom_id"]), Reply(_STATUS.get(str(inner.get("type")), 500), body)
            else:
                yield str(data["custom_id"]), None

    async def delete(self, http: Http, remote_id: str, look: Look) -> None:
        """Delete the batch with its results."""
        await http.delete(f"/messages/batches/{remote_id}")


APIS: Mapping[str, BatchAPI] = {"openai": OpenAIBatches(), "anthropic": AnthropicBatches()}


def _file_name(batch: Batch) -> str:
    return f"{batch.id}.jsonl"


async def _listed(http: Http, path: str, cursor: str, **params: Any) -> AsyncIterator[dict[str, Any]]:
    """List everything, newest first."""
    params["limit"] = _PAGE
    while True:
        page: dict[str, Any] = await http.get(path, **params)
        data = page["data"] if page else []
        for listed in data:
            yield listed
        if not data or not page.get("has_more"):
            return
        params[cursor] = data[-1]["id"]


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    file.seek(0)
    while chunk := file.read(1 << 16):
        yield chunk


def _json(line: bytes) -> dict[str, Any] | None:
    """Return a line of results; ``None`` if it is not one."""
    try:
        data = json.loads(line)
    except ValueError:
        data = None
    if isinstance(data, dict) and isinstance(data.get("custom_id"), str):
        return data
    if line.strip():
        logger.info("a line of a batch's results cannot be read; its request is asked again")
    return None


def endpoint_of(url: str, base: str) -> str:
    """Return the endpoint that a batch names for a URL below the address.

    Example:
        >>> endpoint_of("http://localhost:9/openai/v1/chat/completions", "http://localhost:9/openai/v1")
        '/v1/chat/completions'
    """
    return "/v1" + urlsplit(url).path.removeprefix(urlsplit(base).path.rstrip("/"))
