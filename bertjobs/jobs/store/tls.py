"""Diagnosis of a failed first connection to Redis: only one side uses TLS, or the certificate is not trusted.

Tests the port itself, because for most of these cases redis-py raises only "connection closed".
"""

import socket
import ssl
from urllib.parse import urlsplit

from bertjobs.errors import QueueError

TIMEOUT_S = 2.0


def tls_mismatch(url: str, *, cause: BaseException | None) -> QueueError | None:
    """Explain a failure that repeating the call will not fix; None where TLS is not the cause."""
    parts = urlsplit(url)
    if parts.scheme == "rediss":
        return _failed_handshake(url, str(cause))
    if parts.scheme == "redis" and _uses_tls(parts.hostname or "localhost", parts.port or 6379):
        return QueueError(
            f"Redis at {url} uses TLS, and the address does not",
            hint="Set BERTJOBS_REDIS_URL to rediss://..., and BERTJOBS_REDIS_CA_FILE if a private authority "
            "has signed its certificate.",
        )
    return None


def _failed_handshake(url: str, error: str) -> QueueError | None:
    if "WRONG_VERSION_NUMBER" in error or "RECORD_LAYER_FAILURE" in error:
        return QueueError(
            f"Redis at {url} does not use TLS on this port",
            hint="Set BERTJOBS_REDIS_URL to its TLS port, or to redis://... where the network is safe.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in error:
        reason = error.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (_ssl")[0]
        return QueueError(
            f"The certificate of Redis at {url} is not trusted: {reason.rstrip('.')}",
            hint="Set BERTJOBS_REDIS_CA_FILE to the authority that signed it, and use a host name it names.",
        )
    return None


def _uses_tls(host: str, port: int) -> bool:
    """Try a handshake. Nothing is sent over it, so the certificate is not verified."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False
