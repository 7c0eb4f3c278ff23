"""Find a language model by name, and explain a model's error in one line."""

from __future__ import annotations

import os
import re
from typing import Any

import dspy
from dspy.utils import exceptions as lm_errors

from program.errors import ConfigError, ModelSetupError
from program.plugins import load_path
from program.text import one_line

_MAX_ERROR_CHARS = 200
_TIMEOUT = 600.0

_KEYS = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    "xai": ("XAI_API_KEY",),
}
"""Environment variables of each provider's key. DSPy checks the keys of other providers."""

_LOCAL = {
    "ollama": "ollama serve",
    "ollama_chat": "ollama serve",
    "hosted_vllm": "vllm serve MODEL",
}


def resolve_lm(
    spec: str | dspy.LM | None = None,
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Any:
    """Return the language model that ``spec`` names, without loading or calling it.

    Args:
        spec: ``None`` for the model in ``PERSONAAGENT_MODEL``, else the packaged one; ``embedded`` for
            the packaged model, ``gguf:PATH`` for a GGUF file,
            ``python:MODULE:NAME`` for an LM object in your own code, any DSPy model string
            (``anthropic/claude-…``, ``ollama_chat/…``), or an LM object, which is returned.
        temperature: ``None`` for the model's default, which is 0 for models in the process.
        max_tokens: Longest answer in tokens; ``None`` for the model's default, which is 300 for
            models in the process.

    A call to a provider may take ``PERSONAAGENT_TIMEOUT`` seconds (default: 600), and a retry may wait
    ``PERSONAAGENT_MAX_WAIT`` seconds (default: 60).

    Raises:
        ModelSetupError: The name is unknown, or a key, a file or a package is missing; the message
            says what to do.

    Example:
        >>> resolve_lm("ollama_chat/llama3", temperature=0.7).kwargs["temperature"]
        0.7
        >>> lm = dspy.LM("openai/gpt-4o")
        >>> resolve_lm(lm) is lm
        True
    """
    if spec is not None and not isinstance(spec, str):
        return spec
    spec = spec or os.environ.get("PERSONAAGENT_MODEL") or None
    settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    if spec is None or spec == "embedded" or spec.startswith("gguf:"):
        from program.models.embedded import EmbeddedLM
        from program.models.llama_server import import_runtime

        import_runtime()
        return EmbeddedLM(spec or "embedded", **settings)
    if spec.startswith("python:"):
        return _load_python_lm(spec)
    provider, separator, model = spec.partition("/")
    if not separator or not model:
        raise ModelSetupError(
            f"unknown model {spec!r}: use `embedded`, `gguf:PATH`, `python:MODULE:NAME`, "
            "or `PROVIDER/MODEL` as in `openai/gpt-4o`"
        )
    _check_key(spec, provider)
    try:
        return dspy.LM(spec, timeout=_timeout(), **settings)
    except (dspy.LMError, ValueError) as error:
        raise ModelSetupError(f"cannot use model {spec!r}: {one_line(error, _MAX_ERROR_CHARS)}") from error


def with_seed(lm: Any, seed: int) -> Any:
    """Return ``lm`` with its own cache entries for ``seed``, so that another seed is another sample.

    Seed 0, temperature 0 and models without a cache change nothing.
    """
    # A model without a temperature samples at its provider's default.
    if seed and lm.cache and lm.kwargs.get("temperature") != 0:
        return lm.copy(rollout_id=seed)
    return lm


def with_calibration(lm: Any) -> Any:
    """Return a copy of ``lm`` that divides the probabilities of labels by their prior.

    The prior of a label is its probability without inputs, persona and examples. Calibration helps if
    the prompt has no examples, and hurts if it has some.

    Raises:
        ModelSetupError: The model does not score labels, or cannot be calibrated.

    Example:
        >>> with_calibration(dspy.LM("openai/gpt-4o"))
        Traceback (most recent call last):
        program.errors.ModelSetupError: openai/gpt-4o cannot calibrate the probabilities of labels: leave ...
    """
    if not isinstance(getattr(lm, "calibrate", None), bool) or getattr(lm, "decisions", None) is None:
        name = getattr(lm, "model", None) or type(lm).__name__
        raise ModelSetupError(
            f"{name} cannot calibrate the probabilities of labels: leave the setting out, or use `embedded` "
            "or `gguf:PATH`"
        )
    calibrated = lm.copy()
    calibrated.calibrate = True
    return calibrated


def _timeout() -> float:
    text = os.environ.get("PERSONAAGENT_TIMEOUT", "")
    try:
        seconds = float(text or _TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ModelSetupError(f"`PERSONAAGENT_TIMEOUT` must be a number of seconds above 0, got {text!r}")
    return seconds


def _load_python_lm(spec: str) -> Any:
    try:
        lm = load_path(spec.removeprefix("python:"), f"model {spec!r}")
    except ConfigError as error:
        raise ModelSetupError(one_line(error, _MAX_ERROR_CHARS)) from error
    if not isinstance(lm, dspy.BaseLM):
        raise ModelSetupError(f"{spec!r} is not a `dspy.LM` but a {type(lm).__name__}")
    return lm


def _check_key(spec: str, provider: str) -> None:
    # A gateway in the environment may not need a key.
    gateway = any(os.environ.get(f"{provider.upper()}_{end}") for end in ("API_BASE", "BASE_URL"))
    names = _KEYS.get(provider, ())
    if names and not gateway and not any(os.environ.get(name) for name in names):
        raise ModelSetupError(f"model {spec!r} needs a key: run `export {names[0]}=...`, or use `embedded`")


def explain(error: BaseException) -> str | None:
    """Return a model's error in one line with the next step; ``None`` for any other error.

    The line has the model's name and the provider's message, cut, and no prompt text.

    Example:
        >>> explain(dspy.LMTimeoutError("timeout", model="openai/gpt-4o"))
        'openai/gpt-4o did not answer in time: try again'
    """
    if isinstance(error.__cause__, ModelSetupError):
        return str(error.__cause__)
    if not isinstance(error, dspy.LMError):
        return None
    model = getattr(error, "model", None) or "the model"
    provider = str(model).partition("/")[0]
    reason = one_line(str(error).removeprefix(f"[{model}] "), _MAX_ERROR_CHARS)
    if isinstance(error, lm_errors.LMAuthError):
        key = f"`{_KEYS[provider][0]}`" if provider in _KEYS else "its value"
        return f"{model} rejected the key: check {key}"
    if isinstance(error, lm_errors.LMBillingError):
        return f"{model} requires payment: check the account's credit"
    if isinstance(error, lm_errors.LMRateLimitError):
        wait = f" in {error.retry_after:.0f} s" if error.retry_after else ""
        return f"{model} is rate limited: try again{wait}, or with fewer workers"
    if isinstance(error, lm_errors.ContextWindowExceededError):
        return f"the prompt is too long for {model}: use fewer or shorter interactions, or another model"
    if _is_filtered(error):
        return f"{model} filtered the request: change or leave out the text that its provider objects to"
    if isinstance(error, lm_errors.LMUnsupportedModelError) or error.status == 404:
        return f"{model} is unknown to its provider: check the name{_pull(provider, str(model))}"
    if isinstance(error, lm_errors.LMNotConfiguredError):
        return f"{model} is not set up: {reason}"
    if isinstance(error, lm_errors.LMTimeoutError):
        return f"{model} did not answer in time: try again"
    if isinstance(error, lm_errors.LMTransportError) or _refused(error):
        start = f": is the server running? Start it with `{_LOCAL[provider]}`" if provider in _LOCAL else ""
        at = f" at {address}" if (address := _address(provider)) else ""
        return f"{model} cannot be reached{at}{start or ': check the network and the address'}"
    # LiteLLM passes some of a server's failures on as bad requests.
    if isinstance(error, lm_errors.LMServerError) or (error.status or 0) >= 500:
        return f"{model} had a server error: try again later"
    return f"{model} failed: {reason}"


def _is_filtered(error: dspy.LMError) -> bool:
    words = f"{error.provider_code or ''} {error.message}".lower()
    return isinstance(error, lm_errors.LMInvalidRequestError) and any(
        word in words for word in ("content_filter", "content filter", "content management policy", "safety")
    )


def _address(provider: str) -> str:
    """Return the address that calls to a provider go to, without a password; empty if it is the default."""
    configured = getattr(dspy.settings.lm, "kwargs", {})
    address = configured.get("api_base") or configured.get("base_url")
    for end in ("API_BASE", "BASE_URL"):
        address = address or os.environ.get(f"{provider.upper()}_{end}")
    return re.sub(r"//[^/@]*@", "//", str(address)) if address else ""


def _refused(error: BaseException | None) -> bool:
    # LiteLLM reports a refused connection as a server error; only the message differs.
    while error is not None:
        if isinstance(error, ConnectionError) or "connection error" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _pull(provider: str, model: str) -> str:
    name = model.partition("/")[2]
    return f", or fetch it with `ollama pull {name}`" if provider.startswith("ollama") else ""
