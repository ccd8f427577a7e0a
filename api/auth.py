"""Personal access tokens: 32 random bytes that are shown once and kept as a hash, with scopes and an end."""

import hashlib
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.engine import writing
from api.schema import Base

Scope = Literal["read", "annotate", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""`admin` may do everything. Whoever may `submit` jobs may run code on the machines that run them."""
TOKEN = re.compile(r"cinemill_[A-Za-z0-9_-]{43}")
SHOWN = len("cinemill_") + 8
"""Characters of a token that lists show: 48 of its 256 bits."""
DAY = 86_400.0


class Token(Base):
    """One token. Times are seconds since 1970."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]

    def is_valid(self, now: float) -> bool:
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True)
class Caller:
    """Who asks. The id is a token's, or `loopback` where no token is asked for."""

    id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    @property
    def owner(self) -> str:
        """Whose jobs this caller's are: tokens of one name belong to one owner."""
        return "local" if self == LOOPBACK else self.name

    def may_change(self, owner: str) -> bool:
        """Whether another's job may be stopped by this caller."""
        return self.owner == owner or self.may("admin")


LOOPBACK = Caller("loopback", "loopback", frozenset({"admin"}))


class TokenStore:
    """The table behind a few verbs. Safe to use from several threads."""

    def __init__(self, engine: Engine):
        self.engine = writing(engine)

    def create(self, name: str, scopes: Collection[Scope], days: float) -> tuple[Token, str]:
        """The row and the secret, which nothing can tell again. Raises ValueError for words that are no scopes."""
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ValueError(f"scopes are {', '.join(SCOPES)}; {unknown[0]!r} is none" if unknown else "name a scope")
        secret = f"cinemill_{secrets.token_urlsafe(32)}"
        now = time.time()
        token = Token(
            id=secrets.token_hex(8), name=name, prefix=secret[:SHOWN], sha256=_hash(secret), created_at=now,
            scopes=" ".join(scope for scope in SCOPES if scope in scopes), expires_at=now + days * DAY, revoked_at=None,
        )  # fmt: skip
        with self._session() as session, session.begin():
            session.add(token)
        return token, secret

    def find(self, secret: str) -> Caller | None:
        """Who this token stands for; None if there is no such token, or it has ended, or was revoked."""
        if not TOKEN.fullmatch(secret):
            return None
        with self._session() as session:  # the hash is looked up, so timing tells nothing of the secret
            token = session.scalars(select(Token).where(Token.sha256 == _hash(secret))).one_or_none()
        if token is None or not token.is_valid(time.time()):
            return None
        return Caller(token.id, token.name, frozenset(token.scopes.split()))

    def list(self) -> list[Token]:
        """All tokens, the newest first; ended and revoked ones too, since the audit log names them."""
        with self._session() as session:
            return [*session.scalars(select(Token).order_by(Token.created_at.desc(), Token.id))]

    def revoke(self, token_id: str) -> Token | None:
        """The token, which is no longer valid from now on; None if there is none."""
        with self._session() as session, session.begin():
            session.execute(
                update(Token).where(Token.id == token_id, Token.revoked_at.is_(None)).values(revoked_at=time.time())
            )
        with self._session() as session:
            return session.get(Token, token_id)

    def has_admin(self) -> bool:
        """Whether a valid token with the scope admin exists."""
        now = time.time()
        return any("admin" in token.scopes.split() and token.is_valid(now) for token in self.list())

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)


def _hash(secret: str) -> str:
    """SHA-256 is enough for 256 random bits: there is no dictionary to try."""
    return hashlib.sha256(secret.encode()).hexdigest()
