"""Every example of dev/SERVING.md runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from optimizers.fleet.users import align_users
from program.models.scripted import scripted_lm
from program.serve.contracts import Actions
from program.store import UserStore

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "dev" / "SERVING.md").read_text("utf-8"), re.S | re.M)
ADDRESS = "http://127.0.0.1:8766"
FINISH = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}


@pytest.fixture
def ana(store: UserStore) -> None:
    store.add_user("ana", task="free-text")
    store.observe("ana", query="What shall I cook?", response="Lentils.")
    store.add_persona("ana", "Likes pulses.", source="edit", why="she said so")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_line_is_answered(ana: None, serve: Any, token: Any, model: Any) -> None:
    model.body = b'{"choices": []}'
    lm = scripted_lm(lambda system, user: FINISH if "`action`" in user else "Lentils.")
    url = serve(actions=Actions(align=align_users, lm=lm, wikipedia=False))
    key = token("ana", "read", "write")
    lines = [block for kind, block in BLOCKS if kind == "bash" and block.startswith("curl")]
    assert len(lines) >= 7
    for line in lines:
        assert ADDRESS in line
        script = line.replace(ADDRESS, url).replace("curl -s", "curl -s --fail-with-body --noproxy '*'", 1)
        done = subprocess.run(
            ["bash", "-c", script], env={"KEY": key, "PATH": "/usr/bin:/bin"}, capture_output=True, timeout=20
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert isinstance(json.loads(done.stdout), dict)


async def test_the_client_of_the_sdk_reads_the_persona(ana: None, serve: Any, token: Any) -> None:
    [code] = [block for kind, block in BLOCKS if kind == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    assert "Likes pulses." in await names["read_persona"](serve(), token("ana"))


def test_client_configurations_are_json_and_name_what_exists() -> None:
    desktop, code = (json.loads(block) for kind, block in BLOCKS if kind == "json")
    command = desktop["mcpServers"]["persona"]
    assert [command["command"], *command["args"]] == "personaagent serve --mcp stdio --user ana".split()
    assert code["servers"]["persona"]["url"] == f"{ADDRESS}/mcp"
