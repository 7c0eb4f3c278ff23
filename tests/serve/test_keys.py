"""Keys of `personaagent serve`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

import personaagent
from program.errors import ConfigError, DataError, StoreError
from program.home import home
from program.serve.keys import Keys, erase_keys, parse_age
from program.store import UserStore


def run(*words: str) -> str:
    result = CliRunner().invoke(personaagent.command_line(), list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_a_key_is_found_by_its_token_alone(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    token, key = keys.create(user_id="ana", rights=["write", "read"])
    assert keys.find(token) == key
    assert key.rights == ("read", "write")
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (changed, token[:-1], f"{token}x", f"{token}\n", f" {token}", "", "pa_", "\ud83d"):
        assert keys.find(wrong) is None


def test_the_secret_is_not_on_disk_and_others_cannot_read_the_file(tmp_path: Path) -> None:
    token, key = Keys(tmp_path).create(user_id="ana")
    path = tmp_path / "keys" / f"{key.id}.json"
    assert token.split("_", 2)[2] not in path.read_text()
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_key_for_one_user_does_not_open_another(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    one, every = keys.create(user_id="ana")[1], keys.create(user_id=None)[1]
    assert (one.opens("ana"), one.opens("an"), one.opens("")) == (True, False, False)
    assert every.opens("ana")
    assert every.opens("ben")


def test_no_right_includes_another(tmp_path: Path) -> None:
    _, key = Keys(tmp_path).create(user_id=None, rights=["admin"])
    assert [key.has(right) for right in ("read", "write", "admin")] == [False, False, True]  # type: ignore[arg-type]


def test_a_key_expires(tmp_path: Path) -> None:
    _, key = Keys(tmp_path).create(user_id=None, expires=timedelta(hours=1))
    now = datetime.now(timezone.utc)
    assert not key.expired(now)
    assert key.expired(now + timedelta(hours=1))


def test_a_revoked_key_is_gone_for_a_server_that_runs(tmp_path: Path) -> None:
    running = Keys(tmp_path)
    token, key = Keys(tmp_path).create(user_id=None)
    assert running.find(token)
    Keys(tmp_path).revoke(key.id)
    assert running.find(token) is None
    with pytest.raises(ConfigError, match="there is no key"):
        running.revoke(key.id)


@pytest.mark.parametrize("name", ["../users", "", "0123456789ab/../x", "*"])
def test_revoke_deletes_no_other_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "users.json").touch()
    with pytest.raises(ConfigError, match="is not the id of a key"):
        Keys(tmp_path).revoke(name)
    assert (tmp_path / "users.json").exists()


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with pytest.raises(ConfigError, match="must be of read, write, admin, got 'all'"):
        keys.create(user_id=None, rights=["read", "all"])
    with pytest.raises(ConfigError, match="at least one"):
        keys.create(user_id=None, rights=[])
    with pytest.raises(ConfigError, match="above 0"):
        keys.create(user_id=None, expires=timedelta(0))
    with pytest.raises(StoreError, match="1 to 256 characters"):
        keys.create(user_id="")
    for age in ("90", "d", "-1d", "0d", "1y", "1.5d", "999999d"):
        with pytest.raises(ConfigError, match="--expires"):
            parse_age(age)
    assert keys.all() == []


@pytest.mark.parametrize("rights", ["", "read,root"])
def test_a_damaged_file_opens_nothing_and_is_named(rights: str, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    token, key = keys.create(user_id="ana")
    path = tmp_path / "keys" / f"{key.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rights": rights}))
    with pytest.raises(DataError, match=f"{key.id}.json"):
        keys.find(token)


def test_commands_create_list_and_revoke() -> None:
    token = run("keys", "create", "--user", "ana", "--rights", "read, write", "--expires", "90d").split()[0]
    key = Keys(home()).find(token)
    assert key is not None
    assert key.user_id == "ana"
    assert key.rights == ("read", "write")
    listed = run("keys", "list")
    assert key.id in listed
    assert token not in listed
    [row] = json.loads(run("keys", "list", "--json"))
    assert row["id"] == key.id
    assert token not in json.dumps(row)
    run("keys", "revoke", key.id)
    assert Keys(home()).find(token) is None


@pytest.mark.parametrize("words", [(), ("--user", "ana", "--all-users")])
def test_a_key_needs_a_user_or_all_users(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="either"):
        CliRunner().invoke(
            personaagent.command_line(),
            ["keys", "create", *words],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_forgetting_a_user_revokes_the_keys_of_that_user_alone() -> None:
    keys = Keys(home())
    own, other = keys.create(user_id="ana")[0], keys.create(user_id="ben")[0]
    with UserStore(home() / "users.db") as store:
        assert erase_keys(store, "ana", home(), whole=False) == 0
        assert erase_keys(store, "ana", home(), whole=True) == 1
    assert keys.find(own) is None
    assert keys.find(other)


def test_a_key_that_was_used_is_revoked_and_changed_at_once(tmp_path: Path) -> None:
    keys, others = Keys(tmp_path), Keys(tmp_path)
    token, key = keys.create(user_id="ana", rights=["read", "write"])
    assert keys.find(token) == key
    path = tmp_path / "keys" / f"{key.id}.json"
    path.write_text(path.read_text().replace("read,write", "read"))
    changed = keys.find(token)
    assert changed is not None
    assert changed.rights == ("read",)
    others.revoke(key.id)
    assert keys.find(token) is None
