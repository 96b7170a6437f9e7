"""Who may do what through the page's server: roles, and the tokens that stand for a user with a role.

Values and decisions only; `store/token_store.py` keeps the tokens.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from bertjobs.errors import ConfigError, QueueError
from bertjobs.jobs.job import iso

_TOKEN = re.compile(r"bjt_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


class Role(StrEnum):
    """What a user may do."""

    READER = "reader"
    """Look at everything and change nothing."""
    USER = "user"
    """Also submit jobs, and change one's own."""
    OPERATOR = "operator"
    """Also change other users' jobs."""


class AccessDenied(QueueError):
    """The user's role does not allow it."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who asks."""

    user: str
    role: Role
    expires_at: datetime | None = None
    """When the token ends; None: never."""


@dataclass(frozen=True, kw_only=True)
class AccessToken:
    """A token as it is stored: without its secret, of which only a hash is kept."""

    id: str
    user: str
    role: Role
    secret_hash: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return it without the hash, with stable keys, for `--json`."""
        return {
            "id": self.id,
            "user": self.user,
            "role": str(self.role),
            "created_at": iso(self.created_at),
            "created_by": self.created_by,
            "expires_at": iso(self.expires_at),
        }

    def matches(self, secret: str) -> bool:
        """Return whether this is the token's secret; takes as long for a wrong one."""
        return hmac.compare_digest(self.secret_hash, hash_secret(secret))

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    @property
    def identity(self) -> Identity:
        return Identity(user=self.user, role=self.role, expires_at=self.expires_at)


def check_may_change(identity: Identity, *, job_id: str, owner: str) -> None:
    """Check that someone may change a job. Raises: AccessDenied."""
    if identity.role is Role.READER:
        raise AccessDenied(
            f"{identity.user} has the role reader and may change no job",
            hint="Ask an operator for a token with `--role user`.",
        )
    if identity.role is Role.USER and identity.user != owner:
        raise AccessDenied(
            f"{job_id} belongs to {owner}, and {identity.user} may change own jobs only",
            hint="Ask its owner, or an operator.",
        )


def may_change(identity: Identity, *, owner: str) -> bool:
    """Return whether someone may change a job of this user."""
    try:
        check_may_change(identity, job_id="", owner=owner)
    except AccessDenied:
        return False
    return True


def new_secret() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return the hash that is stored of a secret. It has 256 random bits: no list of guesses is short enough
    to try, so no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_text(token_id: str, secret: str) -> str:
    """Return a token as its user gets it."""
    return f"bjt_{token_id}_{secret}"


def parse_token(text: str) -> tuple[str, str] | None:
    """Return id and secret of a token as its user has it; None where it is none."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else (found[1], found[2])


def check_user_name(name: str) -> None:
    """Check a name that jobs and tokens carry. Raises: ConfigError."""
    if not _USER.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a name of a user",
            hint="Give letters, digits and `.`, `_`, `@`, `-`: at most 64, the first a letter or digit.",
        )


def roles() -> Mapping[str, str]:
    """Return the roles with what each may do, for help texts."""
    return {
        Role.READER: "looks at everything",
        Role.USER: "submits, and changes own jobs",
        Role.OPERATOR: "changes all jobs",
    }
