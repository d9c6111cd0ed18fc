"""Every client logs in at the endpoint, over TLS and without, and one that may not is told so."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kafka.clients import READ_COMMITTED
from tests.kafka.program import Running
from tests.kafka.readers.run import Outcome, readers, require_same, run_each
from tests.kafka.readers.spec import Spec
from tests.kafka.recorded import STAMPS, Archive, Recording

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORD = "a pass-word, with = and ;"


def test_every_client_logs_in_with_every_mechanism(tmp_path: Path, recording: Recording) -> None:
    archive = Archive(tmp_path, recording, kafka_sasl_users_file=str(users(tmp_path)))
    with archive.program.daemon() as running:
        for mechanism in MECHANISMS:
            spec = logged_in(archive, mechanism)
            require_read(running, recording, spec)
        wrong = replace(logged_in(archive, "SCRAM-SHA-512"), password="wrong", seconds="8")
        require_denied(recording, wrong)
        require_denied(recording, Spec(archive.bootstrap, topics=STAMPS, seconds="8"))


def test_every_client_reads_over_tls(tmp_path: Path, recording: Recording) -> None:
    certificate, key, trusted = make_certificate(tmp_path)
    archive = Archive(
        tmp_path,
        recording,
        kafka_tls_cert=str(certificate),
        kafka_tls_key=str(key),
        kafka_sasl_users_file=str(users(tmp_path)),
    )
    archive.archive_half()
    with archive.program.daemon() as running:
        spec = replace(logged_in(archive, "SCRAM-SHA-256"), protocol="SASL_SSL", ca=str(certificate))
        require_read(running, recording, spec, trusted)
        archive.program.configure(kafka_sasl_users_file=None)
    with archive.program.daemon() as running:
        spec = Spec(archive.bootstrap, topics=STAMPS, protocol="SSL", ca=str(certificate))
        require_read(running, recording, spec, trusted)
        require_denied(recording, Spec(archive.bootstrap, topics=STAMPS, seconds="8"))


@pytest.mark.skipif(shutil.which("kcat") is None, reason="there is no kcat: apt-get install kcat")
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kcat_logs_in(tmp_path: Path, recording: Recording, mechanism: str) -> None:
    """With the librdkafka that a distribution has, which is years old."""
    certificate, key, _ = make_certificate(tmp_path)
    file = users(tmp_path)
    archive = Archive(
        tmp_path,
        recording,
        kafka_tls_cert=str(certificate),
        kafka_tls_key=str(key),
        kafka_sasl_users_file=str(file),
    )
    settings = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": mechanism,
        "sasl.username": "reader",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(certificate),
    }
    command = ["kcat", "-C", "-b", archive.bootstrap, "-t", STAMPS, "-o", "beginning", "-e", "-q", "-f", "%o %T\n"]
    command += [word for name, value in settings.items() for word in ("-X", f"{name}={value}")]
    with archive.program.daemon() as running:
        running.wait(lambda: "serving Kafka clients" in running.log_text, "the endpoint")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = recording.records[READ_COMMITTED].of(STAMPS, 0)
    assert done.stdout.splitlines() == [f"{row.offset} {row.timestamp}" for row in expected]


def logged_in(archive: Archive, mechanism: str) -> Spec:
    return Spec(
        archive.bootstrap,
        topics=STAMPS,
        protocol="SASL_PLAINTEXT",
        mechanism=mechanism,
        user="reader",
        password=PASSWORD,
    )


def require_read(running: Running, recording: Recording, spec: Spec, trusted: Path | None = None) -> None:
    """``trusted``: the certificate as old Java takes it."""
    running.wait(lambda: "serving Kafka clients" in running.log_text, "the endpoint")
    expected = Outcome([row for row in recording.records[READ_COMMITTED].rows if row.topic == STAMPS])
    names = readers(recording.version)
    old = [name for name in names if name == "java-oldest" and trusted is not None]
    found = run_each([name for name in names if name not in old], spec, recording.version)
    if old:
        found |= run_each(old, replace(spec, ca=str(trusted)), recording.version)
    for name, outcome in found.items():
        require_same(outcome, expected, f"{name} {spec.protocol} {spec.mechanism}")


def require_denied(recording: Recording, spec: Spec) -> None:
    for name, outcome in run_each(readers(recording.version), spec, recording.version, complete=False).items():
        assert outcome.failure is not None, name
        assert not outcome.rows, name


def users(root: Path) -> Path:
    file = root / "users"
    file.write_text(f"somebody:else\nreader:{PASSWORD}\n")
    file.chmod(0o600)
    return file


def make_certificate(root: Path) -> tuple[Path, Path, Path]:
    """Of 127.0.0.1, signed by itself, its key, and the trust store that Java took before it took PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    # Java before 2.5 compares with the name that it looks up for the address.
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file, trusted = root / "cert.pem", root / "key.pem", root / "trusted.p12"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key_file.chmod(0o600)
    keytool = shutil.which("keytool")
    assert keytool is not None
    command = [keytool, "-importcert", "-noprompt", "-alias", "endpoint", "-file", str(cert_file)]
    command += ["-keystore", str(trusted), "-storetype", "PKCS12", "-storepass", "changeit"]
    subprocess.run(command, check=True, capture_output=True)
    return cert_file, key_file, trusted
