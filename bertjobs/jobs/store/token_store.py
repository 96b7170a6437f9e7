"""The tokens of the page's users, in Redis: a hash `bj:tokens`, from an id to the record, without the secret.

In Redis and not in a file of the server: several servers share them, a revoked one is refused at once, and
the command that makes one runs wherever the queue is reached. Whoever can write there can change every job
anyway.
"""

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from bertjobs.errors import QueueError
from bertjobs.jobs.access import (
    AccessToken,
    Role,
    check_user_name,
    hash_secret,
    new_secret,
    parse_token,
    token_text,
)
from bertjobs.jobs.store.connection import Connection

_KEY = "bj:tokens"
_MALFORMED = (ValueError, TypeError, LookupError)


class TokenStore:
    """The tokens. Every call raises RedisDown where Redis is down. Times are by Redis' clock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, user: str, *, role: Role, expires_s: float | None, by: str) -> tuple[AccessToken, str]:
        """Make a token; return its record and its text, which is stored nowhere.

        Raises: ConfigError: not a name of a user.
        """
        check_user_name(user)
        secret, now = new_secret(), self._now()
        token = AccessToken(
            id=secrets.token_hex(4),
            user=user,
            role=role,
            secret_hash=hash_secret(secret),
            created_at=now,
            created_by=by,
            expires_at=None if expires_s is None else now + timedelta(seconds=expires_s),
        )
        record = {**token.to_json(), "secret_hash": token.secret_hash}
        with self._connection.errors():
            self._connection.client.hset(_KEY, token.id, json.dumps(record))
        return token, token_text(token.id, secret)

    def all(self) -> list[AccessToken]:
        """Return all tokens, expired ones included, by user and date."""
        with self._connection.errors():
            found: Any = self._connection.client.hgetall(_KEY)
        tokens = [token for token_id, text in found.items() if (token := _parse(token_id, text)) is not None]
        return sorted(tokens, key=lambda token: (token.user, token.created_at))

    def revoke(self, named: str) -> list[AccessToken]:
        """Delete the token with this id, or all tokens of this user; return them.

        Raises: QueueError: there is none.
        """
        found = [token for token in self.all() if named in (token.id, token.user)]
        if not found:
            raise QueueError(
                f"There is no token and no user with tokens {named}",
                hint="`bertjobs web token list` shows the tokens.",
            )
        with self._connection.errors():
            self._connection.client.hdel(_KEY, *(token.id for token in found))
        return found

    def find(self, text: str) -> AccessToken | None:
        """Return the token that a user has given, None where it is wrong, expired or revoked."""
        parts = parse_token(text)
        if parts is None:
            return None
        token = self.get(parts[0])
        return token if token is not None and token.matches(parts[1]) else None

    def get(self, token_id: str) -> AccessToken | None:
        """Return a token that is still valid by its id; None where it is expired or revoked."""
        with self._connection.errors():
            text: Any = self._connection.client.hget(_KEY, token_id)
        token = None if text is None else _parse(token_id, text)
        if token is None or (token.expires_at is not None and token.has_expired(self._now())):
            return None
        return token

    def _now(self) -> datetime:
        with self._connection.errors():
            seconds, microseconds = self._connection.client.time()
        return datetime.fromtimestamp(int(seconds) + int(microseconds) // 1000 / 1000, UTC)


def _parse(token_id: str, text: str) -> AccessToken | None:
    """Read a record; None where no version of ours has written it."""
    try:
        found = json.loads(text)
        expires_at = found["expires_at"]
        return AccessToken(
            id=token_id,
            user=str(found["user"]),
            role=Role(found["role"]),
            secret_hash=str(found["secret_hash"]),
            created_at=datetime.fromisoformat(found["created_at"]),
            created_by=str(found["created_by"]),
            expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        )
    except _MALFORMED:
        return None
