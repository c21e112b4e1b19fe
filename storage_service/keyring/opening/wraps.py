"""Wraps: encrypted copies of the root key, one for each recipient that may open the keyring with a key of its own.

    system/keyring/wraps/root.<16>/unlock.<id>  =  {"format":1,"kind":"unlock","id":…,"root":"root.<16>",
                                                    "created":…,"wrapped":"<JWE under the recipient's key>"}

Recipients of this page hold a 512-bit key: the root key file (``file``), an unlock key (``unlock``), a set of shares
(``shares``). Machines have key pairs, and documents of their own (`keyring.machines.document`). The
recipient's kid says kind and id; it tells nothing of its key. Wraps are grouped by the root key they wrap, so that
those of the next root key can be prepared beside those that are valid. The store is untrusted: a wrap opens under its
own name, and what comes out of it is the root key whose kid is its thumbprint, or the wrap is refused.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from strongroom.models import strict_json
from strongroom.models.names import WRAPS
from strongroom.storage_service.backends.base import Backend, Delete, Put, pages
from strongroom.storage_service.errors import ConfigurationError, KeyringDamaged, Undecipherable
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.rootkey import RootKey

FORMAT: Final = 1
HUMAN: Final = frozenset({"unlock", "shares"})  # the kinds that somebody has to type

Kind = Literal["file", "unlock", "shares"]


class Wrap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"format_": "format"}):
    """One wrap as the store keeps it; nothing in it is secret."""

    format_: int = FORMAT
    kind: Kind
    id: str
    root: str  # kid of the root key
    created: str  # RFC 3339, UTC
    wrapped: str
    threshold: int | None = None  # of shares: how many open it
    total: int | None = None  # and of how many

    @property
    def recipient(self) -> str:
        """The kid of the key that opens it."""
        return f"{self.kind}.{self.id}"

    @property
    def name(self) -> str:
        """The name it lies under."""
        return name_of(self.root, self.recipient)


def name_of(root: str, recipient: str) -> str:
    """Return the name of the wrap of root key *root* for *recipient*."""
    return f"{WRAPS}{root}/{recipient}"


def wrap(root: RootKey, recipient: Key, now: str, *, threshold: int | None = None, total: int | None = None) -> Wrap:
    """Return the wrap of *root* for *recipient*, whose kid is ``<kind>.<id>``."""
    kind, _, id_ = recipient.kid.partition(".")
    text = jwe.encrypt(recipient, name_of(root.kid, recipient.kid), jwk.encode(root.reveal(), kid=root.kid))
    return msgspec.convert(
        {
            "kind": kind,
            "id": id_,
            "root": root.kid,
            "created": now,
            "wrapped": text.decode(),
            "threshold": threshold,
            "total": total,
        },
        Wrap,
    )


def unwrap(wrap: Wrap, recipient: Key) -> RootKey:
    """Return the root key in *wrap*.

    Raises:
        KeyringDamaged: it does not open under the key that it names, or holds something else.
    """
    try:
        members = jwk.decode(jwe.decrypt({recipient.kid: recipient}, wrap.name, wrap.wrapped.encode(errors="replace")))
        root = RootKey(jwk.octets_of(members))
    except Undecipherable as error:
        raise KeyringDamaged(
            f"the wrap {wrap.recipient} does not open: {error.reason}; restore it from a backup"
        ) from None
    except ValueError as error:
        raise KeyringDamaged(f"the wrap {wrap.recipient} opens, but {error}; restore it from a backup") from None
    if root.kid != wrap.root:
        raise KeyringDamaged(f"the wrap {wrap.recipient} holds another root key than it says; restore it from a backup")
    return root


def put(wrap: Wrap) -> Put:
    """Return the change that stores *wrap*."""
    return Put(wrap.name, msgspec.json.encode(wrap))


def decode(name: str, text: bytes) -> Wrap:
    """Return the wrap that lies under *name*.

    Raises:
        ConfigurationError: a later version of this program wrote it.
        KeyringDamaged: it is invalid, or belongs under another name.
    """
    try:
        said = strict_json.decode(text)
        if isinstance(said, dict) and isinstance(said.get("format"), int) and said["format"] > FORMAT:
            raise ConfigurationError(
                f"the store's {name} is of a format that this version does not know: a later version wrote it; "
                "run that one"
            )
        wrap = msgspec.convert(said, Wrap)
    except (strict_json.MalformedJSON, msgspec.ValidationError):
        raise KeyringDamaged(f"the store's {name} is not a wrap; restore it from a backup") from None
    if wrap.name != name:
        raise KeyringDamaged(f"the store's {name} belongs under another name; restore it from a backup")
    return wrap


async def wraps_of(backend: Backend, root: str) -> list[Wrap]:
    """Return all wraps of the root key *root*, by recipient.

    Raises:
        ConfigurationError, KeyringDamaged: as `decode`.
        Unavailable: the store does not answer.
    """
    return [decode(name, text) for name, text in (await _texts(backend, f"{WRAPS}{root}/")).items()]


async def others_than(backend: Backend, root: str) -> Sequence[Delete]:
    """Return the changes that remove the wraps of every root key but *root*: the others are no longer in use."""
    return [Delete(name) for name in await _texts(backend, WRAPS) if not name.startswith(f"{WRAPS}{root}/")]


async def _texts(backend: Backend, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for names in pages(backend.list, prefix):
        found |= {name: entry.value for name, entry in (await backend.get_many(names)).items()}
    return dict(sorted(found.items()))
