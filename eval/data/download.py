"""LaMP's files from their official address, checked before they count as downloaded.

The server answers a wrong path with status 200 and an HTML page, so only the content is believed:
a file gets its name when its size is the announced one and it parses as LaMP's JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from eval.data.jsonlist import elements
from eval.files import sha256
from eval.submission import read_outputs
from eval.tasks.base import LampTask
from program.errors import ConfigError, DataError
from program.task import Task

BASE_URL = "https://ciir.cs.umass.edu/downloads/LaMP"
LICENCE = (
    "LaMP's code and data-creation methods: CC BY-NC-SA 4.0. For the data, the licence of each underlying "
    "dataset applies (see https://lamp-benchmark.github.io/). Research use; do not redistribute."
)
MANIFEST = "download.json"

_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """One file, as recorded in ``download.json`` beside it."""

    name: str
    url: str
    bytes: int
    sha256: str
    validator: str
    fetched_at: str
    licence: str


class _Unfinished(Exception):
    """The transfer broke off or the server is busy; what arrived is kept and continued."""


def urls(
    task: Task,
    split: Literal["train", "dev", "test"] = "dev",
    *,
    by: Literal["user", "time"] = "user",
    base: str = BASE_URL,
) -> list[str]:
    """Return the addresses of a task's files; golds of the test split are not published.

    Raises:
        ConfigError: The task is not LaMP's, its files are licensed, or no such split.
    """
    lamp = LampTask.of(task)
    if lamp.licence:
        raise ConfigError(f"`{task.name}` cannot be downloaded: {lamp.licence}")
    if not lamp.folder:
        raise ConfigError(f"`{task.name}` is not one of LaMP's tasks; nothing to download")
    if split not in ("train", "dev", "test") or by not in ("user", "time"):
        raise ConfigError(
            f"`split` must be train, dev or test and `by` user or time, got {split!r} and {by!r}"
        )
    folder = "/".join([base.rstrip("/"), *(["time"] if by == "time" else []), lamp.folder, split])
    kinds = ["questions"] if split == "test" else ["questions", "outputs"]
    return [f"{folder}/{split}_{kind}.json" for kind in kinds]


def download(
    task: Task,
    folder: Path | str,
    accept: Callable[[str], bool],
    *,
    split: Literal["train", "dev", "test"] = "dev",
    by: Literal["user", "time"] = "user",
    base: str = BASE_URL,
    attempts: int = 5,
    wait: float = 1.0,
) -> list[Downloaded]:
    """Fetch a task's files into ``folder``; a broken transfer continues where it stopped.

    A file that is there with its recorded checksum is not fetched again.

    Args:
        task: One of LaMP's tasks.
        folder: For this task, split and setting alone: file names do not say the task.
        accept: Is shown the licence before anything is fetched; ``False`` stops.
        split: Which split.
        by: The user-based or the time-based setting.
        base: The address above the task folders.
        attempts: Tries for each file.
        wait: Seconds before the second try; doubles, at most a minute.

    Raises:
        ConfigError: Nothing to download (see `urls`), or the licence was not accepted.
        DataError: Not found, not LaMP's JSON, or the last try failed; names the address.
    """
    addresses = urls(task, split, by=by, base=base)
    if not accept(LICENCE):
        raise ConfigError("the licence was not accepted; nothing was downloaded")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=wait, max=60),
        retry=retry_if_exception_type((_Unfinished, httpx.TransportError)),
        reraise=True,
    )
    with httpx.Client(timeout=60, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client:
        return [_file(client, url, folder, task, retrying) for url in addresses]


def is_official(path: Path, files: Iterable[Mapping[str, Any]], base: str = BASE_URL) -> bool:
    """Return whether the very ``files`` read from ``path`` were fetched from LaMP's own address.

    Args:
        path: A downloaded file, or its folder.
        files: Their ``sha256``, as in the manifest of `eval.data.dataset.DataSet`.
        base: The address above the task folders.
    """
    recorded = _recorded(path if path.is_dir() else path.parent).values()
    fetched = {file["sha256"] for file in recorded if str(file["url"]).startswith(f"{base}/")}
    read = {str(file["sha256"]) for file in files}
    return bool(read) and read <= fetched


def _file(client: httpx.Client, url: str, folder: Path, task: Task, retrying: Retrying) -> Downloaded:
    target = folder / url.rsplit("/", 1)[1]
    known = _recorded(folder).get(target.name)
    if known and known["url"] == url and target.exists() and sha256(target) == known["sha256"]:
        return Downloaded(**known)
    part = _Part(target.with_name(f"{target.name}.part"), url)
    try:
        retrying(part.fetch, client)
    except (_Unfinished, httpx.TransportError) as error:
        raise DataError(
            f"{url}: {error}; {part.size} bytes are kept, run the command again to continue"
        ) from error
    try:
        _check(part.path, url, task)
    except DataError:
        part.discard()
        raise
    done = Downloaded(
        name=target.name,
        url=url,
        bytes=part.size,
        sha256=sha256(part.path),
        validator=part.validator,
        fetched_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=LICENCE,
    )
    part.path.replace(target)
    part.discard()
    _record(folder, done)
    return done


class _Part:
    """The part of a file that has arrived, and which version of the file it belongs to."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url
        self._state = path.with_name(f"{path.name}.json")
        state = _json(self._state)
        self.validator: str = state.get("validator", "") if state.get("url") == url else ""
        if not self.validator:
            self.discard()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def fetch(self, client: httpx.Client) -> None:
        # `If-Range` makes the server send the whole file when ours is a part of another version.
        headers = (
            {"Range": f"bytes={self.size}-", "If-Range": self.validator}
            if self.size and self.validator
            else {}
        )
        with client.stream("GET", self.url, headers=headers) as response:
            total = self._begin(response)
            with self.path.open("ab" if response.status_code == 206 else "wb") as file:
                for block in response.iter_raw():
                    file.write(block)
        if total is not None and self.size != total:
            raise _Unfinished(f"{self.size} of {total} bytes arrived")

    def _begin(self, response: httpx.Response) -> int | None:
        """Check the answer's head; return the size of the whole file, where it is announced."""
        status = response.status_code
        if status in _RETRIED_STATUS:
            raise _Unfinished(f"the server answered {status}")
        if status == 416:
            self.discard()
            raise _Unfinished("the kept part does not belong to this file and was removed")
        if status not in (200, 206):
            raise DataError(
                f"{self.url}: the server answered {status}; check the task, the split and the base"
            )
        if "html" in response.headers.get("Content-Type", ""):
            raise DataError(f"{self.url}: the answer is an HTML page, not data; check the base and the split")
        if status == 206:
            start, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if start.partition("-")[0] != str(self.size):
                self.discard()
                raise _Unfinished("the server continued at another place; starting again")
            return int(total) if total.isdecimal() else None
        self.validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        self._state.write_text(json.dumps({"url": self.url, "validator": self.validator}), encoding="utf-8")
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def _check(path: Path, url: str, task: Task) -> None:
    with _blaming(url):
        if url.endswith("_outputs.json"):
            if not read_outputs(path, task):
                raise DataError("it holds no golds")
        elif not sum(1 for _ in elements(path)):
            raise DataError("it holds no questions")


@contextmanager
def _blaming(url: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{url}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recorded(folder: Path) -> dict[str, Any]:
    files = _json(folder / MANIFEST).get("files", {})
    return files if isinstance(files, dict) else {}


def _record(folder: Path, done: Downloaded) -> None:
    content = {"files": _recorded(folder) | {done.name: asdict(done)}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
