"""Who a request comes from: a session's cookie, or a token in its `Authorization` header.

A session lives in this process's memory; the token behind it is looked up at each request, so that one that
was revoked or has expired is refused at once. The methods that ask Redis block.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from bertjobs.jobs.access import Identity, Role, hash_secret, new_secret
from bertjobs.jobs.store.token_store import TokenStore

SESSION_S = 7 * 24 * 3600.0
"""Age at which a session ends, however long its token is valid."""
MAX_SESSIONS = 10_000
MAX_FAILURES, FAILURES_WITHIN_S = 10, 60.0
"""Wrong tokens from one address after which it has to wait."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One login."""

    token_id: str | None
    """None: the token that the server has printed."""
    began_at: float


class LocalToken:
    """The token in the link that `bertjobs web` prints: its user may do everything, until the server ends."""

    def __init__(self, user: str) -> None:
        self.text = new_secret()
        self.identity = Identity(user=user, role=Role.OPERATOR)

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(hash_secret(self.text), hash_secret(text))


class Logins:
    """The sessions, and the tokens that start them."""

    def __init__(
        self,
        tokens: TokenStore,
        *,
        local: LocalToken | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self.local = local
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        """By the hash of the cookie."""

    def log_in(self, text: str) -> tuple[str, Identity] | None:
        """Return the cookie of a new session, and who has it; None for a token that is not valid."""
        found = self._check(text)
        if found is None:
            return None
        token_id, identity = found
        self._drop_old()
        cookie = secrets.token_urlsafe(32)
        self._sessions[_hash(cookie)] = Session(token_id=token_id, began_at=self._clock())
        return cookie, identity

    def log_out(self, cookie: str) -> None:
        """End a session, if it is one."""
        self._sessions.pop(_hash(cookie), None)

    def of_cookie(self, cookie: str) -> Identity | None:
        """Return who has this session; None where it has ended, or its token is no longer valid."""
        session = self._sessions.get(_hash(cookie))
        if session is None or self._clock() - session.began_at > SESSION_S:
            return None
        if session.token_id is None:
            return None if self.local is None else self.local.identity
        token = self._tokens.get(session.token_id)
        return None if token is None else token.identity

    def of_token(self, text: str) -> Identity | None:
        """Return who has this token; None where it is not valid."""
        found = self._check(text)
        return None if found is None else found[1]

    def _check(self, text: str) -> tuple[str | None, Identity] | None:
        if self.local is not None and self.local.matches(text):
            return None, self.local.identity
        token = self._tokens.find(text)
        return None if token is None else (token.id, token.identity)

    def _drop_old(self) -> None:
        oldest = self._clock() - SESSION_S
        kept = [(key, found) for key, found in self._sessions.items() if found.began_at > oldest]
        self._sessions = dict(kept[-MAX_SESSIONS + 1 :])


class FailureLimit:
    """Counts wrong tokens by address, in a window of time."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def wait_s(self, address: str) -> float:
        """Return how long this address has to wait before it may try again."""
        recent = self._recent(address)
        if len(recent) < MAX_FAILURES:
            return 0.0
        return recent[-MAX_FAILURES] + FAILURES_WITHIN_S - self._clock()

    def add(self, address: str) -> None:
        """Note a wrong token."""
        now = self._clock()
        self._failures = {
            key: times for key, times in self._failures.items() if times[-1] > now - FAILURES_WITHIN_S
        }
        self._failures[address] = [*self._recent(address), now][-MAX_FAILURES:]

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - FAILURES_WITHIN_S
        return [at for at in self._failures.get(address, ()) if at > since]


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
