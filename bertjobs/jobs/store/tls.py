"""Tell why a first connection to Redis failed where one side speaks TLS and the other does not, or where the
certificate is not to be trusted. Asks the port itself: what redis-py raises is "connection closed" for most.
"""

import socket
import ssl
from urllib.parse import urlsplit

from bertjobs.errors import QueueError

TIMEOUT_S = 2.0


def tls_mismatch(url: str, *, cause: BaseException | None) -> QueueError | None:
    """Explain a failure that repeating will not mend; nothing where TLS is not what is wrong."""
    parts = urlsplit(url)
    if parts.scheme == "rediss":
        return _refused_handshake(url, str(cause))
    if parts.scheme == "redis" and _speaks_tls(parts.hostname or "localhost", parts.port or 6379):
        return QueueError(
            f"Redis at {url} speaks TLS, and the address does not ask for it.",
            hint="Set BERTJOBS_REDIS_URL to rediss://..., and BERTJOBS_REDIS_CA_FILE where an authority of "
            "your own has signed its certificate.",
        )
    return None


def _refused_handshake(url: str, said: str) -> QueueError | None:
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER_FAILURE" in said:
        return QueueError(
            f"Redis at {url} does not speak TLS on this port.",
            hint="Set BERTJOBS_REDIS_URL to its TLS port, or to redis://... where the network is safe.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (_ssl")[0]
        return QueueError(
            f"The certificate of Redis at {url} is not trusted: {reason.rstrip('.')}.",
            hint="Set BERTJOBS_REDIS_CA_FILE to the authority that signed it, and use a host name it names.",
        )
    return None


def _speaks_tls(host: str, port: int) -> bool:
    """Try a handshake; nothing is sent over it, so whose certificate it is does not matter."""
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
