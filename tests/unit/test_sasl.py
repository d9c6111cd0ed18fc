"""SASL: the RFCs' examples, and the clients' own code on the other side."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiokafka.conn import ScramAuthenticator
from hypothesis import given
from hypothesis import strategies as st
from kafka.net.sasl.scram import ScramClient

from takhin_tiered.errors import ConfigError
from takhin_tiered.kafka.credentials import SCRAM, Users, Verifier, load_users, scram_line
from takhin_tiered.kafka.login import AuthenticationFailed
from takhin_tiered.kafka.sasl import Authenticator, ScramExchange, Step

MECHANISMS = tuple(SCRAM)
PASSWORD = "pencil:é=,"


class ScramMessages(Protocol):
    """The client's side, as text."""

    def first(self) -> str: ...
    def final(self, server_first: str) -> str: ...
    def check(self, server_final: str) -> None: ...


class KafkaPython:
    def __init__(self, user: str, password: str, mechanism: str) -> None:
        self.client = ScramClient(user, password, mechanism)

    def first(self) -> str:
        return str(self.client.first_message().decode())

    def final(self, server_first: str) -> str:
        self.client.process_server_first_message(server_first.encode())
        return str(self.client.final_message().decode())

    def check(self, server_final: str) -> None:
        self.client.process_server_final_message(server_final.encode())


class Aiokafka:
    def __init__(self, user: str, password: str, mechanism: str) -> None:
        self.client = ScramAuthenticator(
            loop=None, sasl_plain_password=password, sasl_plain_username=user, sasl_mechanism=mechanism
        )

    def first(self) -> str:
        return str(self.client.first_message())

    def final(self, server_first: str) -> str:
        self.client.process_server_first_message(server_first)
        return str(self.client.final_message())

    def check(self, server_final: str) -> None:
        self.client.process_server_final_message(server_final)


CLIENTS: list[Callable[[str, str, str], ScramMessages]] = [KafkaPython, Aiokafka]


def users_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Users:
    return load_users(
        users_file(
            tmp_path_factory.mktemp("users") / "users",
            "# Who may read.",
            "",
            f"alice:{PASSWORD}",
            scram_line("bob", PASSWORD),
            scram_line("carol", PASSWORD, "SCRAM-SHA-512", 5000),
            scram_line("carol", PASSWORD),
            "d=,ave:secret",
        )
    )


def authenticate(users: Users, client: ScramMessages, mechanism: str) -> Step:
    exchange = Authenticator(users).begin(mechanism)
    step = exchange.step(client.first().encode())
    assert not step.done
    assert step.user == ""
    step = exchange.step(client.final(step.answer.decode()).encode())
    client.check(step.answer.decode())
    return step


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("user", "mechanism"),
    [("alice", "SCRAM-SHA-256"), ("alice", "SCRAM-SHA-512"), ("bob", "SCRAM-SHA-256"), ("carol", "SCRAM-SHA-512")],
)
def test_clients_prove_their_password_and_check_ours(
    users: Users, client: Callable[[str, str, str], ScramMessages], user: str, mechanism: str
) -> None:
    step = authenticate(users, client(user, PASSWORD, mechanism), mechanism)
    assert (step.done, step.user) == (True, user)
    for wrong in (PASSWORD + "x", PASSWORD.upper()):
        with pytest.raises(AuthenticationFailed, match="the user or the password is wrong"):
            authenticate(users, client(user, wrong, mechanism), mechanism)


def test_a_user_whose_name_is_escaped(users: Users) -> None:
    assert authenticate(users, Aiokafka("d=,ave", "secret", "SCRAM-SHA-256"), "SCRAM-SHA-256").user == "d=,ave"
    with pytest.raises(AuthenticationFailed, match="escaped"):
        Authenticator(users).begin("SCRAM-SHA-256").step(b"n,,n=d=ave,r=abc")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("user", "mechanism"), [("nobody", "SCRAM-SHA-256"), ("bob", "SCRAM-SHA-512")])
def test_who_is_unknown_learns_it_no_earlier_than_who_is_wrong(
    users: Users, client: Callable[[str, str, str], ScramMessages], user: str, mechanism: str
) -> None:
    with pytest.raises(AuthenticationFailed, match="the user or the password is wrong"):
        authenticate(users, client(user, PASSWORD, mechanism), mechanism)
    authenticator = Authenticator(users)

    def salt_and_iterations(name: str) -> list[str]:
        step = authenticator.begin(mechanism).step(f"n,,n={name},r=abc".encode())
        return step.answer.decode().split(",")[1:]

    # As of a real user: the same at each try, and another one for another user.
    assert salt_and_iterations(user) == salt_and_iterations(user) != salt_and_iterations("somebody")
    assert len(salt_and_iterations(user)[0]) == len(salt_and_iterations("alice")[0])


def test_the_example_of_rfc_7677() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = Verifier.derive("pencil", "sha256", salt, 4096)
    exchange = ScramExchange(lambda user: (verifier, user == "user"), "sha256", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    first = exchange.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert first == Step(b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    final = exchange.step(b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert final == Step(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", done=True, user="user")
    with pytest.raises(AuthenticationFailed, match="is over"):
        exchange.step(b"")


@pytest.mark.parametrize("user", ["alice", "bob", "carol"])
def test_plain(users: Users, user: str) -> None:
    authenticator = Authenticator(users)

    def step(message: str) -> Step:
        return authenticator.begin("PLAIN").step(message.encode())

    assert step(f"\0{user}\0{PASSWORD}") == Step(b"", done=True, user=user)
    assert step(f"{user}\0{user}\0{PASSWORD}").user == user
    for wrong in (f"\0{user}\0{PASSWORD} ", f"\0nobody\0{PASSWORD}", f"other\0{user}\0{PASSWORD}"):
        with pytest.raises(AuthenticationFailed, match="the user or the password is wrong"):
            step(wrong)
    for malformed in ("", "\0", f"\0{user}\0", f"\0\0{PASSWORD}", f"{user}\0{PASSWORD}", f"\0{user}\0a\0b"):
        with pytest.raises(AuthenticationFailed, match="not a message of PLAIN"):
            step(malformed)
    with pytest.raises(AuthenticationFailed, match="UTF-8"):
        authenticator.begin("PLAIN").step(b"\0\xff\0x")
    with pytest.raises(AuthenticationFailed, match="too long"):
        step(f"\0{user}\0{'x' * 10_000}")


@pytest.mark.parametrize(
    "first",
    [
        "", "n,,", "n,,n=alice", "n,,r=abc", "p=tls-unique,,n=alice,r=abc", "n,a=bob,n=alice,r=abc", "n,,n=,r=abc",
        "n,,m=x,n=alice,r=abc", "n,,n=alice,r=", "n,,n=alice,r=a b", "n,,n=alice,r=abc,tokenauth=true", "n,n=alice,r=a",
    ],
)  # fmt: skip
def test_first_messages_that_are_refused(users: Users, first: str) -> None:
    exchange = Authenticator(users).begin("SCRAM-SHA-256")
    with pytest.raises(AuthenticationFailed):
        exchange.step(first.encode())
    with pytest.raises(AuthenticationFailed, match="is over"):
        exchange.step(b"n,,n=alice,r=abc")


def final_with_header(header: str, bare: str, server_first: str, *, before_nonce: str = "") -> bytes:
    """As by a client that knows of channel binding."""
    nonce, salt, iterations = (each[2:] for each in server_first.split(",", 2))
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), int(iterations))
    key = hmac.digest(salted, b"Client Key", "sha256")
    said = f"c={base64.b64encode(header.encode()).decode()},r={before_nonce}{nonce}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{bare},{server_first},{said}".encode(), "sha256")
    proof = base64.b64encode(bytes(left ^ right for left, right in zip(key, signature, strict=True)))
    return said.encode() + b",p=" + proof


@pytest.mark.parametrize("header", ["n,,", "y,,", "n,a=alice,"])
@pytest.mark.parametrize("bare", ["n=alice,r=abc", "n=alice,r=abc,x=an extension"])
def test_the_header_of_the_first_message_is_checked_in_the_end(users: Users, header: str, bare: str) -> None:
    for final_header in (header, "n,a=alicia,"):
        exchange = Authenticator(users).begin("SCRAM-SHA-256")
        final = final_with_header(final_header, bare, exchange.step(f"{header}{bare}".encode()).answer.decode())
        if final_header == header:
            assert exchange.step(final).user == "alice"
        else:
            with pytest.raises(AuthenticationFailed, match="does not belong to the first"):
                exchange.step(final)


@pytest.mark.parametrize(("before_nonce", "is_taken"), [("abc", True), ("abcabc", False), ("ab", False), ("x", False)])
def test_old_librdkafka_writes_its_part_of_the_nonce_twice(users: Users, before_nonce: str, is_taken: bool) -> None:
    exchange = Authenticator(users).begin("SCRAM-SHA-256")
    server_first = exchange.step(b"n,,n=alice,r=abc").answer.decode()
    final = final_with_header("n,,", "n=alice,r=abc", server_first, before_nonce=before_nonce)
    if is_taken:
        assert exchange.step(final).user == "alice"
    else:
        with pytest.raises(AuthenticationFailed, match="does not belong to the first"):
            exchange.step(final)


def test_final_messages_of_another_exchange(users: Users) -> None:
    client = Aiokafka("alice", PASSWORD, "SCRAM-SHA-256")
    first = client.first().encode()
    recorded = Authenticator(users).begin("SCRAM-SHA-256")
    final = client.final(recorded.step(first).answer.decode()).encode()
    other = Authenticator(users).begin("SCRAM-SHA-256")
    other.step(first)
    with pytest.raises(AuthenticationFailed, match="does not belong to the first"):
        other.step(final)
    assert recorded.step(final).done


@given(st.data())
def test_a_final_message_that_was_changed_proves_nothing(data: Any) -> None:
    users = {"alice": {"SCRAM-SHA-256": Verifier.derive("x", "sha256", b"salt", 1)}}
    client = KafkaPython("alice", "x", "SCRAM-SHA-256")
    exchange = Authenticator(users).begin("SCRAM-SHA-256")
    final = client.final(exchange.step(client.first().encode()).answer.decode()).encode()
    at = data.draw(st.integers(0, len(final) - 1))
    changed = bytearray(final)
    changed[at] ^= data.draw(st.integers(1, 255))
    # The last character of base64 may have bits that say nothing.
    same = changed[:-2] == final[:-2] and changed[-1:] == b"="
    if not same:
        with pytest.raises(AuthenticationFailed):
            exchange.step(bytes(changed))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    users = {"alice": {"SCRAM-SHA-256": Verifier.derive("x", "sha256", b"salt", 1)}}
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        with pytest.raises(AuthenticationFailed):
            Authenticator(users).begin(mechanism).step(garbage)


def test_only_mechanisms_that_somebody_can_use_are_offered(users: Users, tmp_path: Path) -> None:
    assert Authenticator(users).mechanisms == ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    only = Authenticator(load_users(users_file(tmp_path / "users", scram_line("bob", "x"))))
    assert only.mechanisms == ("PLAIN", "SCRAM-SHA-256")
    for mechanism in ("SCRAM-SHA-512", "GSSAPI", ""):
        with pytest.raises(AuthenticationFailed, match="PLAIN, SCRAM-SHA-256"):
            only.begin(mechanism)


NO_ITERATIONS = ("4095", "1000001", "x", "\u0664\u0660\u0669\u0666", "-1", "")
SALT, KEY = base64.b64encode(b"salt").decode(), base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("topsecret", "has no user or no password"),
        (":topsecret", "has no user or no password"),
        ("alice:", "has no user or no password"),
        ("alice: topsecret", "spaces around"),
        ("alice:topsecret ", "spaces around"),
        (" alice:topsecret", "spaces around"),
        ("alice:top\0secret", "spaces around"),
        ("alice:SCRAM-SHA-1:topsecret:4096:x:x", "another mechanism"),
        (f"alice:SCRAM-SHA-256:{SALT}:4096:{KEY}", "has 3 values after the mechanism"),
        (f"alice:SCRAM-SHA-256:{SALT}:4096:topsecret!:{KEY}", "not in base64"),
        (f"alice:SCRAM-SHA-256:{SALT}:4096:é:{KEY}", "not in base64"),
        (f"alice:SCRAM-SHA-512:{SALT}:4096:{KEY}:{KEY}", "not of 64 bytes"),
        (f"alice:SCRAM-SHA-256::4096:{KEY}:{KEY}", "no salt"),
        *((f"alice:SCRAM-SHA-256:{SALT}:{each}:{KEY}:{KEY}", "iterations") for each in NO_ITERATIONS),
        ("bob:topsecret", "repeats a user"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named_without_its_secrets(tmp_path: Path, line: str, says: str) -> None:
    path = users_file(tmp_path / "users", "# Comment.", "bob:other", line)
    with pytest.raises(ConfigError, match=says) as raised:
        load_users(path)
    assert f"line 3 of {path}" in str(raised.value)
    assert "topsecret" not in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_file_that_cannot_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_users(path)
    users_file(path, "# Nobody.", " ")
    with pytest.raises(ConfigError, match="has no user"):
        load_users(path)
    path.write_bytes(b"alice:\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_users(path)
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        load_users(path)
    users_file(path, "alice:secret")
    for mode in (0o640, 0o604, 0o660, 0o610):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
            load_users(path)
    for mode in (0o400, 0o600):
        path.chmod(mode)
        assert list(load_users(path)) == ["alice"]
    path.write_text("\ufeffalice:secret\r\nbob:se cret\r\n")
    assert list(load_users(path)) == ["alice", "bob"]


def test_no_secret_is_shown(users: Users) -> None:
    shown = repr(users)
    assert PASSWORD not in shown
    for verifiers in users.values():
        for verifier in verifiers.values():
            assert repr(verifier.server_key) not in shown
            assert repr(verifier.stored_key) not in shown


def test_a_step_may_run_in_a_thread(users: Users) -> None:
    exchange = Authenticator(users).begin("PLAIN")
    assert asyncio.run(asyncio.to_thread(exchange.step, f"\0alice\0{PASSWORD}".encode())).done
