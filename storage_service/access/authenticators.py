"""How the service learns who calls: Custodia's two for a unix socket, tokens, passwords, certificates, processes.

Custodia's rule over them: the first that says *wrong* ends the request, and at least one must say *who*.
"""

import binascii
import grp
import hmac
import os
import pwd
import re
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, Self

from strongroom.models.access import InvalidAccess
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.credentials import certificate
from strongroom.storage_service.access.holders import Holders
from strongroom.storage_service.access.logins import Logins
from strongroom.storage_service.access.sign_ins import PasswordRefused, SignIns
from strongroom.storage_service.access.tokens import bearer
from strongroom.storage_service.config import ProxyKey
from strongroom.storage_service.errors import ConfigurationError, Denied, Locked, NotAuthenticated, Uninitialized
from strongroom.storage_service.strangers import bounded, network_of
from strongroom.storage_service.wire.head import Head
from strongroom.storage_service.wire.http1 import Peer

_FOR = re.compile(r'for=(?:"\[([0-9a-f:.]{2,45})\]"|([0-9.]{7,15}));proto=https?', re.ASCII)
_WHOM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:-]{0,127}", re.ASCII)


class Authenticator(Protocol):
    """One way of knowing a caller."""

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return who calls, or None where there is nothing to go by.

        Raises:
            Denied: there is, and it is wrong.
            Unavailable: it cannot be told now.
        """


@dataclass(frozen=True, slots=True)
class SimpleAuthKeys:
    """An API id and its key, in two header fields."""

    keys: ApiKeys

    @classmethod
    def from_options(cls, options: Mapping[str, str], keys: ApiKeys) -> Self:
        """Return what *options* describe: which two fields they are is for whoever reads the request's head."""
        del options
        return cls(keys)

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return the principal of the key; without both fields absent, anything but the right pair is refused."""
        del peer
        if head.auth_id is None and head.auth_key is None:
            return None
        principal = await self.keys.authenticate(head.auth_id or "", head.auth_key or "")
        if principal is None:
            raise Denied("wrong API id or key")
        return principal


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that a login gave, in ``Authorization`` (RFC 6750)."""

    logins: Logins

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return whom the token speaks for.

        Raises:
            Denied: an API key is shown, too: which of the two is meant is not guessed.
            TokenRefused: the token is worth nothing.
        """
        del peer
        if not _shows(head, "bearer"):
            return None
        principal, _ = await self.logins.authenticate(bearer(head.authorization or ""))
        return principal


@dataclass(frozen=True, slots=True)
class Basic:
    """The name and the password of a user or a service, in ``Authorization`` (RFC 7617)."""

    sign_ins: SignIns

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return who signs in; where many do, an address has its turns after others, and on the socket a user.

        Raises:
            Denied: an API key is shown, too: which of the two is meant is not guessed.
            PasswordRefused: there is no such name, the password is wrong, or the field is malformed.
            Busy: too many sign-ins at once.
        """
        if not _shows(head, "basic"):
            return None
        name, password = _name_and_password((head.authorization or "")[6:])
        here = "here" if peer is None else f"uid {peer.uid}"
        return await self.sign_ins.authenticate(name, password, network_of(head.address) if head.address else here)


def claimed_in(head: Head) -> str | None:
    """Return by what wrong credentials in *head* are counted: an API id, or a name that is shown with a password.

    Of a token it is None, for that is no guess: it expires in everybody's hands.
    """
    if head.auth_id is not None:
        return head.auth_id
    if head.authorization is None or head.authorization.partition(" ")[0].lower() != "basic":
        return None
    try:
        name, _ = _name_and_password(head.authorization[6:])
    except PasswordRefused:
        name = ""
    return f"basic:{bounded(name)}"


def _shows(head: Head, scheme: str) -> bool:
    """Whether ``Authorization`` is of that *scheme*.

    Raises:
        Denied: it is, and an API key is shown, too.
    """
    if head.authorization is None or head.authorization.partition(" ")[0].lower() != scheme:
        return False
    if head.auth_id is not None or head.auth_key is not None:
        raise Denied("a request shows one credential")
    return True


def _name_and_password(encoded: str) -> tuple[str, bytes]:
    """Return user and password (RFC 7617 sec. 2): the first colon parts them, and the password may hold more.

    Raises:
        PasswordRefused: it is no such thing.
    """
    try:
        name, colon, password = b64decode(encoded.strip().encode("latin-1"), validate=True).partition(b":")
        user = name.decode("utf-8")
    except (binascii.Error, UnicodeError):
        raise PasswordRefused from None
    if not colon:
        raise PasswordRefused
    return user, password


@dataclass(frozen=True, slots=True)
class SimpleCredsAuth:
    """The user or group that the process at the other end runs as.

    A request that a proxy forwarded carries ``Forwarded``; its peer is the proxy, not the caller, and says nothing.
    Only *proxies* are believed about that: whoever else says so is refused as he would be without it, and gains
    nothing by it.
    """

    uid: int = -1
    gid: int = -1
    proxies: frozenset[int] = frozenset()  # users

    @classmethod
    def from_options(cls, options: Mapping[str, str], keys: ApiKeys) -> Self:
        """Return what *options* describe, in which users and groups are names or numbers.

        Raises:
            ConfigurationError: this machine knows no such name.
        """
        del keys
        return cls(
            uid=_user_id(options.get("uid", "-1")),
            gid=_group_id(options.get("gid", "-1")),
            proxies=frozenset(map(_user_id, options.get("proxies", str(os.getuid())).split())),
        )

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return ``service:<uid>`` when user or group are the configured ones."""
        if peer is None or (head.forwarded is not None and peer.uid in self.proxies):
            return None
        if peer.uid == self.uid or (self.gid >= 0 and peer.gid == self.gid):
            return Principal(f"service:{peer.uid}") if head.forwarded is None else None
        raise Denied("this user may not use the socket")


@dataclass(frozen=True, slots=True)
class OwnUser:
    """A process of the service's own user *uid*, or of root, who could write the service's files anyway."""

    uid: int

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return ``service:<uid>``, None where the kernel tells nothing, or somebody forwards for another.

        Raises:
            Denied: it is another user's.
        """
        if peer is None or head.forwarded is not None:
            return None
        if peer.uid in {0, self.uid}:
            return Principal(f"service:{peer.uid}")
        raise Denied("this is for commands of the service's own user, or of root")


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate that a client has shown the proxy, whose TLS library has verified it.

    It counts where nothing else is shown: beside another credential it is the gate that lets the request come here.
    """

    holders: Holders

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        """Return whose the certificate is; None where it is nobody's.

        Raises:
            Denied: by its names it is several principals'.
        """
        del peer
        if head.certificate is None or _shows_any(head):
            return None
        return await self.holders.holder("certificate", _names_of(head.certificate))


@dataclass(frozen=True, slots=True)
class Process:
    """The process at the other end of the socket, where its user is a credential of somebody."""

    holders: Holders

    async def holder(self, peer: Peer, known: Principal | None) -> Principal | None:
        """Return whose the process is, else whom it is *known* as.

        While the records cannot be opened, that is whom the configuration lets in as what it is: without them it alone
        says who unlocks.
        """
        try:
            return await self.holders.holder("process", (str(peer.uid),)) or known
        except (Locked, Uninitialized):
            return known


def _shows_any(head: Head) -> bool:
    return any(each is not None for each in (head.auth_id, head.auth_key, head.authorization))


def _names_of(said: str) -> list[str]:
    """Return the fingerprint and the names of a certificate, as they are kept, in what the proxy has *said* of one."""
    found = []
    for each in said.split(" "):
        with suppress(InvalidAccess):
            found.append(certificate.canonical(each))
    return found


async def authenticate(
    authenticators: tuple[Authenticator, ...], head: Head, peer: Peer | None, process: Process | None = None
) -> Principal:
    """Return who calls: the last authenticator to know, as in Custodia, where the API id overrides the process.

    Whoever is known as a *process* at most is whom a record says that it is.

    Raises:
        NotAuthenticated: none of them had anything to go by.
        Denied: one of them found its credentials wrong.
        Unavailable: one of them could not tell.
    """
    principal: Principal | None = None
    for authenticator in authenticators:
        known = await authenticator.authenticate(head, peer)
        principal = known or principal
    if process is not None and peer is not None and head.forwarded is None:
        unknown = principal is None and not _shows_any(head)
        if unknown or (principal is not None and principal.id == f"service:{peer.uid}"):
            principal = await process.holder(peer, principal)
    if principal is None:
        raise NotAuthenticated("no credentials")
    return principal


class Proxy:
    """Who is believed about the network: a caller that shows the proxy's own key, on each request, beside the caller's.

    All others may say what they like in ``Forwarded``, and whom they act for: none of it is written down.
    """

    def __init__(self, key: ProxyKey | None) -> None:
        """Take the proxy's key; without one, nobody is the proxy."""
        self.principal: Final = "" if key is None else f"apikey:{key.api_id}"
        self._proof = b"" if key is None else f"{key.api_id}:{key.api_key.reveal()}".encode()

    def shown(self, proof: str) -> bool:
        """Whether *proof* is the proxy's."""
        return bool(self._proof) and hmac.compare_digest(proof.encode(), self._proof)


@lru_cache(maxsize=1024)
def address_in(forwarded: str) -> str | None:
    """Return the network address in a ``Forwarded`` of the proxy's; None where it has none to tell."""
    found = _FOR.fullmatch(forwarded)
    return None if found is None else found[1] or found[2]


def whom_in(on_behalf_of: str | None) -> str | None:
    """Return whom the proxy says that it acts for, if that can be somebody."""
    return on_behalf_of if on_behalf_of is not None and _WHOM.fullmatch(on_behalf_of) is not None else None


def _user_id(name: str) -> int:
    try:
        return int(name) if name.lstrip("-").isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigurationError(f"SimpleCredsAuth: there is no user {name!r} on this machine") from None


def _group_id(name: str) -> int:
    try:
        return int(name) if name.lstrip("-").isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationError(f"SimpleCredsAuth: there is no group {name!r} on this machine") from None
