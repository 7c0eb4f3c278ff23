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
from program.models.resolve import explain, resolve_lm, with_calibration, with_seed
from program.models.weights import LANGUAGE_MODEL, Weights, find_model, locate, main


def test_default_is_the_embedded_model() -> None:
    lm = resolve_lm()
    assert isinstance(lm, EmbeddedLM)
    assert (lm.kwargs["temperature"], lm.kwargs["max_tokens"], lm.cache) == (0.0, 300, False)
    assert re.fullmatch("embedded/SmolLM2-135M-Instruct[.]Q8_0@[0-9a-f]{8}", lm.model)


def test_lm_object_is_returned_unchanged() -> None:
    lm = dspy.LM("openai/gpt-4o")
    assert resolve_lm(lm) is lm


def test_calibration_makes_a_copy_that_is_calibrated() -> None:
    lm = EmbeddedLM(max_tokens=32)
    calibrated = with_calibration(lm)
    assert (calibrated.calibrate, calibrated.decisions.calibrate, lm.calibrate) == (True, True, False)
    assert (calibrated.model, calibrated.kwargs) == (lm.model, lm.kwargs)


def test_calibration_is_refused_for_a_model_that_cannot() -> None:
    with pytest.raises(ModelSetupError) as caught:
        with_calibration(dspy.LM("openai/gpt-4o"))
    assert str(caught.value) == (
        "openai/gpt-4o cannot calibrate the probabilities of labels: leave the setting out, or use "
        "`embedded` or `gguf:PATH`"
    )


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            dspy.LMAuthError("no", model="some_provider/m"),
            "some_provider/m rejected the key: check its value",
        ),
        (dspy.LMTimeoutError("no", model="openai/m"), "openai/m did not answer in time: try again"),
        (
            dspy.LMTransportError("no", model="openai/m"),
            "openai/m cannot be reached: check the network and the address",
        ),
        (
            dspy.LMTransportError("no", model="hosted_vllm/m"),
            "hosted_vllm/m cannot be reached: is the server running? Start it with `vllm serve MODEL`",
        ),
        (
            dspy.LMUnsupportedModelError("no", model="ollama_chat/llama9"),
            "ollama_chat/llama9 is unknown to its provider: check the name, "
            "or fetch it with `ollama pull llama9`",
        ),
        (dspy.LMNotConfiguredError("no key", model="openai/m"), "openai/m is not set up: no key"),
        (dspy.LMError("odd\n  thing", model="openai/m"), "openai/m failed: odd thing"),
    ],
)
def test_errors_of_dspy_are_explained_in_one_line(error: dspy.LMError, line: str) -> None:
    assert explain(error) == line


def test_refused_connection_inside_another_error_is_unreachable() -> None:
    error = dspy.LMServerError("internal", model="openai/m")
    error.__cause__ = ValueError("wrapped")
    error.__cause__.__cause__ = ConnectionRefusedError()
    assert "cannot be reached" in (explain(error) or "")


def test_long_error_is_cut() -> None:
    line = explain(dspy.LMError("word " * 500, model="openai/m")) or ""
    assert len(line) <= len("openai/m failed: ") + 200


def test_setup_error_of_an_engine_is_explained_by_its_own_message() -> None:
    error = dspy.LMError("engine failed")
    error.__cause__ = ModelSetupError("run `make weights`")
    assert explain(error) == "run `make weights`"


def test_another_seed_is_another_cache_entry() -> None:
    lm = dspy.LM("openai/m", temperature=1.0)
    seeded = with_seed(lm, 3)
    assert seeded.kwargs["rollout_id"] == 3
    assert "rollout_id" not in lm.kwargs


@pytest.mark.parametrize(
    ("settings", "seed"),
    [({"temperature": 1.0}, 0), ({"temperature": 0.0}, 3), ({"temperature": 1.0, "cache": False}, 3)],
)
def test_seed_changes_nothing_without_sampling_or_cache(settings: dict[str, Any], seed: int) -> None:
    lm = dspy.LM("openai/m", **settings)
    assert with_seed(lm, seed) is lm


def test_module_that_fails_while_it_is_imported_raises_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_models.py").write_text("raise RuntimeError('first line\\nsecond line')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelSetupError, match=r"cannot load model .*: first line second line"):
        resolve_lm("python:broken_models:lm")


def test_missing_file_inside_an_installed_package_has_the_install_command(package: Weights) -> None:
    locate(package).unlink()
    with pytest.raises(ModelSetupError, match=r"cannot read 'model.gguf' \(No such file.*\): run `python -m"):
        locate(package)


def test_unchanged_weights_are_hashed_once(package: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    locate(package)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was read again"))
    locate(package)


def test_install_requests_only_missing_packages(package: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    missing = Weights(requirement="no-such==1", package="no_such_package", file="f", sha256="")

    def run(command: list[str], *, check: bool) -> Any:
        commands.append(command)
        return type("Process", (), {"returncode": 0})

    monkeypatch.setattr(weights.subprocess, "run", run)
    weights.install((package,))
    assert commands == []
    with pytest.raises(ModelSetupError, match="are not installed"):
        weights.install((package, missing))
    (command,) = commands
    assert command[-1] == "no-such==1"
    assert "--no-deps" in command


@pytest.mark.parametrize("arguments", [[], ["uninstall"], ["install", "extra"]])
def test_unknown_command_prints_the_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m program\.models\.weights install\|verify"):
        main(arguments)


def test_home_folder_is_expanded_in_a_gguf_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    model = find_model("gguf:~/model.gguf")
    assert model.path == tmp_path / "model.gguf"
    assert model.source == f"gguf:{tmp_path / 'model.gguf'}"


def test_the_environment_names_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAAGENT_MODEL", "ollama_chat/llama3.2")
    assert resolve_lm().model == "ollama_chat/llama3.2"
    assert resolve_lm("ollama_chat/other").model == "ollama_chat/other"


def test_a_call_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_lm("ollama_chat/llama3.2").kwargs["timeout"] == 600.0
    monkeypatch.setenv("PERSONAAGENT_TIMEOUT", "30")
    assert resolve_lm("ollama_chat/llama3.2").kwargs["timeout"] == 30.0
    for text in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("PERSONAAGENT_TIMEOUT", text)
        with pytest.raises(ModelSetupError, match=f"must be a number of seconds above 0, got '{text}'"):
            resolve_lm("ollama_chat/llama3.2")


def test_an_unreachable_address_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://me:secret@127.0.0.1:9/v1")
    line = explain(dspy.LMTransportError("connection refused", model="openai/m"))
    assert line == "openai/m cannot be reached at http://127.0.0.1:9/v1: check the network and the address"


def test_a_filtered_prompt_is_said_to_be_filtered() -> None:
    error = dspy.LMInvalidRequestError(
        "The response was filtered due to the content management policy.", model="openai/m", status=400
    )
    assert str(explain(error)).startswith("openai/m filtered the request")


def test_a_servers_failure_that_is_passed_on_as_a_bad_request_is_explained_as_what_it_is() -> None:
    error = dspy.LMInvalidRequestError("overloaded", model="openai/gpt-x", status=503)
    assert explain(error) == "openai/gpt-x had a server error: try again later"
