"""Downloads LaMP's files and checks them.

The server answers a wrong path with status 200 and an HTML page. A file therefore gets its final
name only if its size is the announced one and it parses as LaMP's JSON.
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
    """The transfer stopped early or the server is busy. The next attempt resumes it."""


def urls(
    task: Task,
    split: Literal["train", "dev", "test"] = "dev",
    *,
    by: Literal["user", "time"] = "user",
    base: str = BASE_URL,
) -> list[str]:
    """Return the URLs of a task's files. The test split has no public golds.

    Raises:
        ConfigError: The task is not one of LaMP's, its files need a licence, or ``split`` or ``by``
            is unknown.
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
    """Download a task's files into ``folder``. Resumes a partial download.

    A file with its recorded checksum is not downloaded again.

    Args:
        task: One of LaMP's tasks.
        folder: Use one folder for each task, split and setting: file names do not contain the task.
        accept: Called with the licence before any request; return ``False`` to stop.
        split: The split.
        by: The user-based or the time-based setting.
        base: The URL above the task folders.
        attempts: Attempts for each file.
        wait: Seconds before the second attempt; doubles each time, up to a minute.

    Raises:
        ConfigError: There is nothing to download (see `urls`), ``base`` is not a web address, or the
            licence was not accepted.
        DataError: A file is missing, is not LaMP's JSON, or the last attempt failed; the message
            names the URL.
    """
    file_urls = urls(task, split, by=by, base=base)
    _check_url(base)
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
        return [_fetch(client, url, folder, task, retrying) for url in file_urls]


def is_official(path: Path, files: Iterable[Mapping[str, Any]], base: str = BASE_URL) -> bool:
    """Return whether ``files`` are unchanged downloads from LaMP's own server.

    Args:
        path: A downloaded file, or its folder.
        files: The files to check, as in the manifest of `eval.data.dataset.DataSet`: by ``sha256``.
        base: The URL above the task folders.
    """
    records = _read_manifest(path if path.is_dir() else path.parent).values()
    downloads = {record["sha256"] for record in records if str(record["url"]).startswith(f"{base}/")}
    checksums = {str(file["sha256"]) for file in files}
    return bool(checksums) and checksums <= downloads


def _check_url(base: str) -> None:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise ConfigError(f"`base` {base!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"`base` must start with http:// or https:// and a server's name, got {base!r}")


def _fetch(client: httpx.Client, url: str, folder: Path, task: Task, retrying: Retrying) -> Downloaded:
    target = folder / url.rsplit("/", 1)[1]
    record = _read_manifest(folder).get(target.name)
    if record and record["url"] == url and target.exists() and sha256(target) == record["sha256"]:
        return Downloaded(**record)
    part = _Part(target.with_name(f"{target.name}.part"), url)
    try:
        retrying(part.download, client)
    except (_Unfinished, httpx.TransportError) as error:
        raise DataError(
            f"{url}: {error}; {part.size} bytes are kept, run the command again to resume"
        ) from error
    try:
        _check_content(part.path, url, task)
    except DataError:
        part.discard()
        raise
    downloaded = Downloaded(
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
    _add_to_manifest(folder, downloaded)
    return downloaded


class _Part:
    """A partly downloaded file, and the version of the file that it belongs to."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url
        self._state = path.with_name(f"{path.name}.json")
        state = _read_json(self._state)
        self.validator: str = state.get("validator", "") if state.get("url") == url else ""
        if not self.validator:
            self.discard()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def download(self, client: httpx.Client) -> None:
        # With `If-Range` the server sends the whole file if the part belongs to another version.
        headers = (
            {"Range": f"bytes={self.size}-", "If-Range": self.validator}
            if self.size and self.validator
            else {}
        )
        with client.stream("GET", self.url, headers=headers) as response:
            total = self._check_head(response)
            with self.path.open("ab" if response.status_code == 206 else "wb") as file:
                for block in response.iter_raw():
                    file.write(block)
        if total is not None and self.size != total:
            raise _Unfinished(f"received {self.size} of {total} bytes")

    def _check_head(self, response: httpx.Response) -> int | None:
        """Check status and headers; return the size of the whole file, or ``None`` if unknown."""
        status = response.status_code
        if status in _RETRIED_STATUS:
            raise _Unfinished(f"the server answered {status}")
        if status == 416:
            self.discard()
            raise _Unfinished("the partial download does not belong to this file and was removed")
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
                raise _Unfinished("the server resumed at another position; restarting the download")
            return int(total) if total.isdecimal() else None
        self.validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        self._state.write_text(json.dumps({"url": self.url, "validator": self.validator}), encoding="utf-8")
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def _check_content(path: Path, url: str, task: Task) -> None:
    with _prefix_errors(url):
        if url.endswith("_outputs.json"):
            if not read_outputs(path, task):
                raise DataError("it holds no golds")
        elif not sum(1 for _ in elements(path)):
            raise DataError("it holds no questions")


@contextmanager
def _prefix_errors(url: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{url}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_manifest(folder: Path) -> dict[str, Any]:
    files = _read_json(folder / MANIFEST).get("files", {})
    return files if isinstance(files, dict) else {}


def _add_to_manifest(folder: Path, downloaded: Downloaded) -> None:
    content = {"files": _read_manifest(folder) | {downloaded.name: asdict(downloaded)}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
