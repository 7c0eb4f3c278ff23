"""`personaagent serve` as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import personaagent
from program.errors import ConfigError, ModelSetupError
from program.home import home


def run(*words: str) -> Any:
    app = personaagent.command_line()
    return CliRunner().invoke(app, ["serve", *words], catch_exceptions=False, standalone_mode=False)


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("program.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ModelSetupError, match=re.escape("pip install 'personaagent[serve]'")):
        run()


def test_other_machines_need_a_name() -> None:
    with pytest.raises(ConfigError, match="--allow-host NAME"):
        run("--host", "0.0.0.0")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://x/v1?key=1", "http://[/v1"]
)
def test_an_upstream_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--upstream"):
        run("--upstream", url)


def test_a_process_serves_until_it_is_stopped(token: Any) -> None:
    command = [sys.executable, "-m", "personaagent", "serve", "--port", "0"]
    environment = {**os.environ, "PERSONAAGENT_HOME": str(home())}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://\S+", process.stderr.readline())
            assert address is not None
            assert httpx.get(f"{address[0]}/healthz", trust_env=False, timeout=60).json() == {"status": "ok"}
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        finally:
            process.kill()
    assert rest.endswith("Stopped.\n")
    assert '"route": "/healthz", "status": 200' in rest
    assert process.returncode == 0
