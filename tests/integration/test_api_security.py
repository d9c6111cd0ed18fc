"""TLS and the tokens of the API, with daemons and commands as they run: roles, rotation, and renewed certificates."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from takhin_tiered.config import Settings
from takhin_tiered.guesses import AT_ONCE
from tests.support import Broker, Daemon, command, daemon, directory_settings, free_port, wait_until

pytestmark = pytest.mark.long

ADMIN, READ, LATER = "a" * 32, "r" * 32, "l" * 32


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}.example", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def write_tokens(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)


def asked(running: Daemon, token: str, method: str = "GET", endpoint: str = "stats", **how: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return running.request(method, f"/api/v1/tiered/{endpoint}", headers=headers, **how)


@contextmanager
def served(broker: Broker, tmp_path: Path, **settings: Any) -> Iterator[tuple[Daemon, Settings]]:
    found = directory_settings(broker, tmp_path / "store", **settings)
    with daemon(found, tmp_path / "log") as running:
        running.wait_serving()
        yield running, found


def reloaded(running: Daemon, times: int = 1) -> dict[str, Any]:
    """Reload, and what is told of it."""
    running.process.send_signal(signal.SIGHUP)

    def told() -> list[dict[str, Any]]:
        lines = map(json.loads, running.log.read_text().splitlines())
        return [line for line in lines if "reloaded" in line["event"] or "stays in effect" in line["event"]]

    wait_until(lambda: len(told()) >= times, what="the reload")
    return told()[-1]


def test_a_token_for_reading_looks_and_changes_nothing_and_a_reload_rotates_them(
    broker: Broker, tmp_path: Path
) -> None:
    path, file = broker.segments("orders-0", 1, age_hours=0)[0], tmp_path / "tokens"
    write_tokens(file, f"read {READ} grafana", f"admin {ADMIN} ops")
    with served(broker, tmp_path, api_tokens_file=file) as (running, settings):
        assert {token: asked(running, token).status_code for token in (READ, ADMIN, "", "x" * 32)} == {
            READ: 200, ADMIN: 200, "": 401, "x" * 32: 401,
        }  # fmt: skip
        assert asked(running, READ, "POST", "plan").status_code == 200
        refused = asked(running, READ, "POST", "archive", json={"segment_path": path})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "admin" in refused.json()["error"]
        assert broker.is_whole(path)
        # The command takes an administrator's from the file; with one for reading it is told what it lacks.
        plain = settings.model_copy(update={"api_tokens_file": None, "api_token": SecretStr(READ)})
        assert "may only read" in command(plain, "archive", path).stderr
        assert command(plain, "plan").returncode == 0
        assert command(settings, "archive", path).returncode == 0
        assert asked(running, READ, "GET", f"segments/{path}").json()["state"] == "archived"
        # Whose request it was stands in the log, by name.
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
        assert [line["token"] for line in lines if line.get("status") == 403] == ["grafana"] * 2
        write_tokens(file, f"admin {LATER}", f"read {ADMIN}")
        assert reloaded(running)["tokens"] == ["line 1", "line 2"]
        assert [asked(running, token).status_code for token in (READ, ADMIN, LATER)] == [401, 200, 200]
        assert asked(running, ADMIN, "POST", "rebuild").status_code == 403
        file.chmod(0o644)
        assert reloaded(running, 2)["event"].startswith("the file of tokens cannot be reloaded")
        assert asked(running, LATER).status_code == 200
        assert running.stop() == 0
    assert not any(secret in running.log.read_text() for secret in (ADMIN, READ, LATER))


def test_commands_trust_exactly_the_certificate_and_a_reload_renews_it(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, age_hours=0, size=3_000_000)[0]
    cert, key = make_certificate(tmp_path, "first")
    other = make_certificate(tmp_path, "other")
    with served(broker, tmp_path, api_tls_cert=cert, api_tls_key=key, api_token="t") as (running, settings):
        assert running.api.startswith("https://127.0.0.1:")

        def fingerprint() -> str:
            address = httpx.URL(running.api)
            return ssl.get_server_certificate((address.host, address.port or 0))

        assert fingerprint().split() == cert.read_text().split()
        answers = command(settings, "status", "--json")
        assert json.loads(answers.stdout)["daemon"]["answers"] is True
        assert command(settings, "archive", path).returncode == 0
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        served_bytes = httpx.get(
            f"{running.api}/api/v1/tiered/segments/{path}/data",
            headers={"Authorization": "Bearer t"},
            verify=context,
            trust_env=False,
        )
        assert served_bytes.content == broker.files[path]
        # Another certificate is not trusted, whoever has signed it: a token would go to whoever listens there.
        wrong = settings.model_copy(update={"api_tls_cert": other[0], "api_tls_key": other[1]})
        refused = command(wrong, "restore", path)
        assert refused.returncode == 1
        assert "its certificate is not the one that storage.tiered.api.tls.cert names" in refused.stderr
        without = settings.model_copy(update={"api_tls_cert": None, "api_tls_key": None})
        assert "does not answer" in command(without, "restore", path).stderr
        cert.write_bytes(other[0].read_bytes())
        reloaded(running)
        running.wait_logged("the API keeps its previous certificate")
        assert fingerprint().split() != cert.read_text().split()
        key.write_bytes(other[1].read_bytes())
        reloaded(running, 2)
        wait_until(lambda: fingerprint().split() == cert.read_text().split(), what="the renewed certificate")
        assert command(settings, "restore", path).returncode == 0
        with pytest.raises(httpx.HTTPError):
            httpx.get(running.api.replace("https://", "http://") + "/healthz")
        assert running.stop() == 0


@pytest.mark.parametrize("fault", ["pair", "none", "locked", "tokens", "users"])
def test_what_cannot_be_used_ends_the_start_with_2(broker: Broker, tmp_path: Path, fault: str) -> None:
    cert, key = make_certificate(tmp_path, "first")
    how: dict[str, Any] = {"api_tls_cert": cert, "api_tls_key": key}
    if fault == "pair":
        key = make_certificate(tmp_path, "other")[1]
        how["api_tls_key"] = key
    elif fault == "none":
        cert.write_text("no certificate\n")
    elif fault == "locked":
        subprocess.run(
            ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", tmp_path / "locked.key"],
            check=True, capture_output=True,
        )  # fmt: skip
        how["api_tls_key"] = tmp_path / "locked.key"
    elif fault == "users":
        (tmp_path / "users").touch(0o600)
        how |= {"kafka_port": free_port(), "kafka_sasl_users_file": tmp_path / "users"}
    else:
        (tmp_path / "tokens").write_text("admin x\n")
        how["api_tokens_file"] = tmp_path / "tokens"
    told = {"tokens": "storage.tiered.api.tokens.file", "users": "storage.tiered.kafka.sasl.users.file"}.get(
        fault, "storage.tiered.api.tls.cert and .key name PEM"
    )
    for arguments in (["run"], ["config", "check"]):
        ended = command(directory_settings(broker, tmp_path / "store", **how), *arguments)
        assert ended.returncode == 2
        assert told in ended.stderr


def test_a_short_token_is_pointed_out(broker: Broker, tmp_path: Path) -> None:
    for token in ("short-secret", "x" * 16, ""):
        checked = command(directory_settings(broker, tmp_path / "store", api_token=token), "config", "check")
        assert checked.returncode == 0
        told = "Warning: storage.tiered.api.token has less than 16 characters" in checked.stderr
        assert told is (token == "short-secret")
        assert "short-secret" not in checked.stderr + checked.stdout


def test_nobody_names_another_address_as_its_own(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on loopback, and not where the server's own variable asks for it: else nobody would run out of guesses."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    path = broker.segments("orders-0", 1, age_hours=0)[0]
    with served(broker, tmp_path, api_token=ADMIN) as (running, _):
        named = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
        right = {"Authorization": f"Bearer {ADMIN}", **named}
        archived = running.request("POST", "/api/v1/tiered/archive", headers=right, json={"segment_path": path})
        assert archived.status_code == 200
        form = {"token": ADMIN, "next": "/"}
        entered = running.request("POST", "/dashboard/login", headers={"Sec-Fetch-Site": "none", **named}, data=form)
        assert "__Host-" not in entered.headers["set-cookie"]
        # Over one connection: a slow guess is forgotten before the next one comes.
        with httpx.Client(base_url=running.api, trust_env=False, timeout=60) as client:
            statuses = [
                client.get(
                    "/api/v1/tiered/stats",
                    headers={"Authorization": f"Bearer wrong-{number}", "X-Forwarded-For": f"192.0.2.{number}"},
                ).status_code
                for number in range(AT_ONCE + 100)
            ]
        assert statuses[:AT_ONCE] == [401] * AT_ONCE
        assert 429 in statuses
        assert running.stop() == 0
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert {line["client"] for line in lines if "client" in line} == {"127.0.0.1"}
