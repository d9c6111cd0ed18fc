"""The tokens of the API: who may do what, and what a file of them may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from takhin_tiered.api.guard import is_reading
from takhin_tiered.api.tokens import Tokens, token_of_commands
from takhin_tiered.config import Settings
from takhin_tiered.errors import ConfigError

ADMIN, READ, OWN = "a" * 32, "r" * 32, "the-token-of-the-settings"
LINES = f"# who\n\nadmin {ADMIN} ops\nread {READ}\n"


def settings(tmp_path: Path, lines: str | None = None, own: str = "") -> Settings:
    path = None
    if lines is not None:
        path = tmp_path / "tokens"
        path.write_text(lines)
        path.chmod(0o600)
    return Settings(data_dir=tmp_path, api_token=SecretStr(own), api_tokens_file=path)


def test_without_tokens_none_is_needed(tmp_path: Path) -> None:
    tokens = Tokens(settings(tmp_path))
    assert (tokens.is_needed, tokens.find(""), tokens.find("x")) == (False, None, None)


def test_each_token_has_its_role_and_its_name(tmp_path: Path) -> None:
    tokens = Tokens(settings(tmp_path, LINES, OWN))
    assert tokens.is_needed
    found = {given: tokens.find(given) for given in (OWN, ADMIN, READ, "", "x", READ + " ", ADMIN.upper())}
    roles = {given: token.role for given, token in found.items() if token is not None}
    assert roles == {OWN: "admin", ADMIN: "admin", READ: "read"}
    assert all(token is None or tokens.with_digest(token.digest) is token for token in found.values())
    assert [token.name for token in tokens.known] == ["api.token", "ops", "line 4"]
    assert not any(secret in repr(tokens.known) for secret in (OWN, ADMIN, READ))


def test_commands_give_the_one_of_the_settings_else_the_first_administrators(tmp_path: Path) -> None:
    assert token_of_commands(settings(tmp_path, LINES, OWN)) == OWN
    assert token_of_commands(settings(tmp_path, f"read {READ}\n{LINES.replace(READ, READ[1:])}")) == ADMIN
    assert token_of_commands(settings(tmp_path, f"read {READ}\n")) == ""
    found = settings(tmp_path, LINES)
    assert found.api_tokens_file is not None
    found.api_tokens_file.chmod(0o644)
    assert token_of_commands(found) == token_of_commands(settings(tmp_path)) == ""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", ".* has no token"),
        (f"{ADMIN}\n", "line 1 of .* is not a role and a token"),
        (f"\nwrite {ADMIN}\n", "line 2 of .* is not a role and a token"),
        (f"admin {ADMIN} two names\n", "line 1 of .* is not a role and a token"),
        ("read short\n", "line 1 of .* has a token of less than 16 characters"),
        (f"read {'ü' * 20}\n", "line 1 of .* has a token of less"),
        (f"read {READ}\nadmin {READ}\n", "a token occurs twice"),
        (f"read {OWN}\n", "a token occurs twice in .*, or is storage.tiered.api.token too"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_what_stands_in_it(tmp_path: Path, lines: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"storage.tiered.api.tokens.file: {told}") as found:
        Tokens(settings(tmp_path, lines, OWN))
    assert not any(secret in str(found.value) for secret in (READ, ADMIN, OWN))


def test_only_its_owner_may_open_the_file(tmp_path: Path) -> None:
    found = settings(tmp_path, LINES)
    assert found.api_tokens_file is not None
    found.api_tokens_file.chmod(0o640)
    with pytest.raises(ConfigError, match="has tokens, and others than its owner may open it") as refused:
        Tokens(found)
    assert "chmod 600" in str(refused.value)
    found.api_tokens_file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Tokens(found)


@pytest.mark.parametrize(
    ("method", "path", "reads"),
    [
        ("GET", "/api/v1/tiered/stats", True),
        ("HEAD", "/api/v1/tiered/segments/a-0/00000000000000000000.log/data", True),
        ("POST", "/api/v1/tiered/plan", True),
        ("POST", "/api/v1/tiered/restore/plan", True),
        ("POST", "/api/v1/tiered/restore", False),
        ("POST", "/api/v1/tiered/plan/../archive", False),
        ("POST", "/api/v1/tiered/verify", False),
        ("DELETE", "/api/v1/tiered/plan", False),
        ("PUT", "/api/v1/tiered/stats", False),
    ],
)
def test_what_a_token_for_reading_is_enough_for(method: str, path: str, *, reads: bool) -> None:
    assert is_reading(method, path) is reads
