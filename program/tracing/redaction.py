"""Replaces e-mail addresses, keys, passwords and card numbers in texts by ``[redacted]``.

Each pattern runs only on texts that contain one of its substrings, starts only where a token starts,
and never backtracks over more than a bounded number of characters, so that a text of any kind takes
time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

REDACTED = "[redacted]"

# The start of a token. In JSON inside of a text, it follows the `n` of an escaped line end.
_START = r"(?:(?<![\w-])|(?<=\\[nrt]))"
# Has a digit or a capital, as random keys do and words do not.
_RANDOM = r"(?=[\w-]{0,200}?[0-9A-Z])"

_HEADERS = (
    "authorization|proxy-authorization|x-api-key|api-key|x-goog-api-key|x-auth-token|x-amz-security-token|"
    "ocp-apim-subscription-key|x-subscription-token"
)
_SETTINGS = (
    r"aws_secret_access_key|aws_session_token|secret[_-]?access[_-]?key|client[_-]?secret|secret[_-]?key|"
    r"api[_-]?key|access[_-]?key|account[_-]?key|shared[_-]?access[_-]?key|private[_-]?key|"
    r"(?:access|auth|refresh|session|id)[_-]?token"
)
_PASSWORDS = r"password|passwd|passphrase"
_SECRET_NAME = re.compile(
    rf"(?:[\w.]*[_.-])?(?:{_HEADERS}|{_SETTINGS}|{_PASSWORDS}|secret|credentials?|cookie|set-cookie)",
    re.ASCII | re.IGNORECASE,
)


class _Pattern(NamedTuple):
    """A kind of secret. A match has a substring of ``needles``, compared in lower case if ``folds``."""

    needles: tuple[str, ...]
    regex: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str] = REDACTED
    folds: bool = False


def _card(match: re.Match[str]) -> str:
    """Redact a number with the check digit of a card; other long numbers are ids and times."""
    digits = [int(digit) for digit in match[0] if digit.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return match[0] if (sum(digits[-1::-2]) + sum(doubled)) % 10 else REDACTED


_PATTERNS = (
    _Pattern(
        ("-----BEGIN",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[^-]*(?:-(?!----)[^-]*)*"
            r"(?:-----END [A-Z0-9 ]{0,40}-----)?"
        ),
    ),
    _Pattern(("://",), re.compile(r"""(?<=://)[^\s/@:"'<>]{0,256}:[^\s/"'<>]{1,256}@"""), f"{REDACTED}@"),
    _Pattern(("eyJ",), re.compile(rf"{_START}eyJ[\w-]{{8,}}(?:\.[\w-]+){{1,4}}", re.ASCII)),
    _Pattern(
        ("sk-", "pk-", "rk-", "ghp-", "gho-"),
        re.compile(rf"{_START}(?:sk-(?!learn)|pk-|rk-|ghp-|gho-)[\w-]{{16,}}", re.ASCII),
    ),
    _Pattern(
        ("sk_", "pk_", "rk_"),
        re.compile(rf"{_START}[spr]k_(?:(?:live|test)_[A-Za-z0-9]{{8,}}|{_RANDOM}[\w-]{{16,}})", re.ASCII),
    ),
    _Pattern(
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"),
        re.compile(rf"{_START}(?:gh[pousr]_|github_pat_|glpat-)[\w-]{{16,}}", re.ASCII),
    ),
    _Pattern(("xox", "xapp-"), re.compile(rf"{_START}(?:xox[a-z]|xapp)-[\w-]{{10,}}", re.ASCII)),
    _Pattern(("hooks.slack.com/",), re.compile(r"(?<=hooks\.slack\.com/)[\w/-]{16,}", re.ASCII)),
    _Pattern(
        ("AIza", "ya29.", "GOCSPX-"),
        re.compile(rf"{_START}(?:AIza[\w-]{{20,}}|ya29\.[\w.-]{{16,}}|GOCSPX-[\w-]{{16,}})", re.ASCII),
    ),
    _Pattern(
        ("AKIA", "ASIA", "AROA", "AIDA", "ABIA", "ACCA"),
        re.compile(rf"{_START}A(?:KIA|SIA|ROA|IDA|BIA|CCA)[A-Z0-9]{{12,}}\b", re.ASCII),
    ),
    _Pattern(
        ("hf_", "gsk_", "npm_", "whsec_", "nvapi-", "pypi-", "xai-", "r8_", "SG."),
        re.compile(
            rf"{_START}(?:hf_|gsk_|npm_|whsec_|nvapi-|pypi-|xai-|r8_|SG\.){_RANDOM}[\w.-]{{20,}}", re.ASCII
        ),
    ),
    _Pattern(
        ("authorization", "-key", "-token"),
        re.compile(
            rf"""{_START}({_HEADERS})(["']?\s{{0,4}}[:=]\s{{0,4}}["']?)"""
            r"""(?:(?:basic|bearer|token|digest|negotiate|apikey|aws4-hmac-sha256)[ ]+[^\s"',;]{4,}"""
            r"""|(?=[^\s"',;]{0,200}?\d)[^\s"',;]{8,})""",
            re.ASCII | re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
        folds=True,
    ),
    _Pattern(
        ("bearer ",),
        re.compile(
            r"\bbearer +(?:(?=[\w.~+/-]{0,200}?\d)[\w.~+/-]{16,}|[\w.~+/-]{24,})=*",
            re.ASCII | re.IGNORECASE,
        ),
        REDACTED,
        folds=True,
    ),
    _Pattern(
        ("key", "token", "secret"),
        re.compile(
            rf"""({_SETTINGS})(["']?\s{{0,4}}(?:[:=]|=>)\s{{0,4}}["']?)"""
            r"""(?=[^\s"'&;,<>]{0,200}?\d)[^\s"'&;,<>(){}\[\]]{8,}""",
            re.ASCII | re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
        folds=True,
    ),
    _Pattern(
        ("passw", "passphrase"),
        re.compile(
            rf"""({_PASSWORDS})("\s{{0,4}}:\s{{0,4}}"|'\s{{0,4}}:\s{{0,4}}'|\s{{0,2}}=\s{{0,2}}["']?)"""
            r"""[^\s"'&;,<>(){}\[\]]{4,}""",
            re.ASCII | re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
        folds=True,
    ),
)
_CARD = re.compile(
    r"(?<![\d.-])(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}[ -]?\d{6}[ -]?\d{5})(?![\d-])", re.ASCII
)
_CARD_HINT = re.compile(r"\d{4}[ -]?\d{4}|3[47]\d\d[ -]\d{6}", re.ASCII)
_DOMAIN = re.compile(r"@(?:[\w-]{1,63}\.)+[^\W\d_][\w-]{1,62}")
_MAILBOX = re.compile(r"[\w.+-]{1,64}\Z")


def redact_secrets(text: str) -> str:
    """Replace e-mail addresses, keys and tokens of providers, private keys, passwords and card numbers.

    Passwords are found in URLs and after names such as ``password=``; cards by their check digit.

    Example:
        >>> redact_secrets("write to ana@example.org")
        'write to [redacted]'
        >>> redact_secrets("postgres://ana:hunter2@db/traces")
        'postgres://[redacted]@db/traces'
    """
    folded = ""
    for needles, regex, replacement, folds in _PATTERNS:
        if folds and not folded:
            folded = text.lower()
        if any(needle in (folded if folds else text) for needle in needles):
            text = regex.sub(replacement, text)
    if "@" in text:
        text = _redact_addresses(text)
    return _CARD.sub(_card, text) if _CARD_HINT.search(text) else text


def is_secret_name(name: str) -> bool:
    """Return whether a field called ``name`` holds a secret, such as ``api_key`` or ``Authorization``.

    Example:
        >>> is_secret_name("AZURE_API_KEY"), is_secret_name("monkey")
        (True, False)
    """
    return len(name) <= 100 and _SECRET_NAME.fullmatch(name) is not None


def _redact_addresses(text: str) -> str:
    # Looks back from each `@`: a search from the left would try every character of a long word.
    parts, end = [], 0
    for match in _DOMAIN.finditer(text):
        start = max(end, match.start() - 64)
        mailbox = _MAILBOX.search(text[start : match.start()])
        if mailbox is not None:
            parts += [text[end : start + mailbox.start()], REDACTED]
            end = match.end()
    return "".join([*parts, text[end:]])
