"""The tool `search_wikipedia`, for Wikipedia or any other MediaWiki.

The client is mwclient: among the maintained ones, only it accepts any API address and leaves retries
and errors to the caller. wikipedia-api hard-codes Wikipedia's address and logs whole queries;
pymediawiki makes a request when it is constructed and ignores the status of a reply.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from program.errors import ConfigError
from program.text import one_line
from program.text_safety import repair
from program.tools.base import Tool
from program.tools.toolset import ToolError

if TYPE_CHECKING:
    from tenacity import RetryCallState

WIKIPEDIA = "https://en.wikipedia.org/w/api.php"
USER_AGENT = "personaagent/0.1 (personalised question answering; reads article summaries)"
_PAGES = 3
_MAX_QUERY = 300  # MediaWiki rejects longer searches.
_CACHE_BYTES = 64 * 2**20


class WikipediaSearch:
    """Searches a MediaWiki and returns the introductions of the best articles.

    **The query leaves the machine**: the agent's query, which may contain the user's words, is sent
    to the wiki. It is in the body of the request, never in a log line or an error, and the cache
    stores only its hash.

    Without a network a search fails at once, and no request is made for ``pause`` seconds. Safe to
    share between threads and users: it stores only public text.

    Args:
        cache_dir: Folder for the cache, in a subfolder ``wikipedia`` that only this account can read.
        base_url: The ``api.php`` of the wiki; ``https://ru.wikipedia.org/w/api.php`` is the Russian one.
        timeout: Seconds to wait for a reply; no retry starts later.
        retries: Maximum number of retries after status 429 or 5xx or a lost connection.
        max_chars: Maximum length of the text, in characters, shared equally by the articles.
        pause: Seconds without requests after the wiki was unreachable.
        keep: Seconds until a cached reply expires.

    Raises:
        ConfigError: ``base_url`` is not the http(s) address of an ``api.php``.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        base_url: str = WIKIPEDIA,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        max_chars: int = 600,
        pause: float = 60.0,
        keep: float = 30 * 86400.0,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.path.endswith("/api.php"):
            raise ConfigError(f"`base_url` must be the http(s) address of an api.php, got {base_url!r}")
        self._base_url = base_url
        self._folder = Path(cache_dir) / "wikipedia"
        self._timeout = timeout
        self._retries = retries
        self._max_chars = max_chars
        self._pause = pause
        self._keep = keep
        self._paused_until = 0.0
        self._open_lock = threading.Lock()
        self._site: Any = None
        self._cache: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open_lock": None, "_site": None, "_cache": None, "_paused_until": 0.0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _open_lock=threading.Lock())

    @property
    def tool(self) -> Tool:
        """The tool ``search_wikipedia`` for a `ToolSet`."""
        return Tool.of(self.search_wikipedia, blocking=True)

    def search_wikipedia(self, query: str) -> str:
        """Search Wikipedia for facts about the world (not about this user); returns article summaries.

        Raises:
            ToolError: The query is empty, the wiki is unreachable, or it rejected the search.
        """
        # Half of a surrogate pair cannot be sent.
        words = one_line(repair(query), _MAX_QUERY)
        if not words:
            raise ToolError("The Wikipedia search needs at least one word.")
        self._open()
        key = self._key(words)
        # Leaving the context closes the thread's database connection; threads may be short-lived.
        with self._cache as cache:
            cached = cache.get(key)
        if cached is not None:
            return str(cached)
        text = self._render(self._find_pages(words))
        with self._cache as cache:
            cache.set(key, text, expire=self._keep)
        return text

    def _open(self) -> None:
        with self._open_lock:
            if self._site is None:
                import diskcache
                import mwclient

                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._cache = diskcache.Cache(str(self._folder), size_limit=_CACHE_BYTES)
                parts = urlsplit(self._base_url)
                self._site = mwclient.Site(
                    parts.netloc,
                    path=parts.path.removesuffix("api.php"),
                    scheme=parts.scheme,
                    clients_useragent=USER_AGENT,
                    custom_headers={"Promise-Non-Write-API-Action": "true"},
                    connection_options={"timeout": self._timeout},
                    do_init=False,
                )

    def _key(self, words: str) -> str:
        request = json.dumps([self._base_url, _PAGES, self._max_chars, words])
        return hashlib.sha256(request.encode()).hexdigest()

    def _find_pages(self, words: str) -> list[dict[str, Any]]:
        """Return the best pages, best first; their ``extract`` is plain text."""
        from mwclient.errors import APIError, InvalidResponse
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay

        wait = self._paused_until - time.monotonic()
        if wait > 0:
            raise _unreachable(f"as just before; it is not tried again for {wait:.0f} s")
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=_wait,
            stop=stop_after_attempt(1 + self._retries) | stop_before_delay(self._timeout),
            reraise=True,
        )
        try:
            reply = retrying(self._request, words)
        except APIError as error:
            raise ToolError(f"Wikipedia refused the search ({error.code}).") from None
        except (requests.RequestException, InvalidResponse) as error:
            self._paused_until = time.monotonic() + self._pause
            raise _unreachable(_reason(error)) from None
        pages: list[dict[str, Any]] = reply.get("query", {}).get("pages", [])
        return sorted(pages, key=lambda page: page.get("index", 0))

    def _request(self, words: str) -> Any:
        # POST, because a query in the address would appear in log lines and error messages.
        return self._site.post(
            "query",
            retry_on_error=False,
            formatversion="2",
            generator="search",
            gsrsearch=words,
            gsrlimit=str(_PAGES),
            prop="extracts",
            exintro="1",
            explaintext="1",
            exlimit="max",
            redirects="1",
        )

    def _render(self, pages: list[dict[str, Any]]) -> str:
        if not pages:
            return "Wikipedia has no article on that."
        share = (self._max_chars + 1) // len(pages) - 1
        lines = (f"- {page.get('title', '')}: {page.get('extract', '')}" for page in pages)
        return "\n".join(one_line(line, share) for line in lines)


def _unreachable(reason: str) -> ToolError:
    return ToolError(f"Wikipedia could not be reached ({reason}). Go on without it.")


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    return (
        isinstance(error, requests.ConnectionError | requests.Timeout)
        or status == 429
        or (status or 0) >= 500
    )


def _wait(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: the server's ``Retry-After``, or 0.25, 0.5, 1, ..."""
    error = state.outcome.exception() if state.outcome else None
    headers = getattr(getattr(error, "response", None), "headers", {})
    retry_after = str(headers.get("Retry-After", ""))
    return float(retry_after) if retry_after.isdecimal() else 0.25 * 2 ** (state.attempt_number - 1)


def _reason(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"it answered with status {status}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "its answer cannot be read"
