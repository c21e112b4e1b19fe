"""The keyring as one file: with a copy of the store and one key that opens the file, every secret is there again.

    {"what":"strongroom keyring","format":1,"created":"2026-11-22T09:30:00Z","root":"root.<16>",
     "recipients":[{"kind":"unlock","id":"0k4tq8zd","created":…,"needed":null,"of":null,"name":null},
                   {"kind":"machine","id":"<fingerprint>","created":…,"needed":null,"of":null,"name":"db-1"}],
     "left_out":[],"wraps":[…],"machines":[…],"keys":"<JWE under the root key>","seal":"<JWE under the root key>"}

It may lie where the backups lie, for everything secret in it is encrypted: *wraps*, *machines* and *keys* are what the
store holds. The *recipients* are a table for people, who can see in it which keys open the file. No key protects that
table, nor what belongs together; so *seal* holds, under the root key, the SHA-256 digest of all the rest. The rest is
not put under the root key itself, because somebody has to read the wraps before there is a root key. What is digested
is the JSON with sorted members and no white space, so an editor may lay out the file as it likes.

A file is not trusted: it is measured and checked by itself before any key is tried. What the seal proves is that a
holder of the root key made it as it is; whether one wrap opens is only proven by opening it.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

import msgspec

from strongroom.models import names, strict_json
from strongroom.models.errors import InvalidName
from strongroom.models.names import EXPORT_SEAL, KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import ABSENT, Backend
from strongroom.storage_service.errors import (
    ConfigurationError,
    Invalid,
    KeyringDamaged,
    Overtaken,
    StrongroomError,
    Undecipherable,
    Uninitialized,
    WrongKey,
    WrongRootKey,
)
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.machines.document import MachineDocument, is_fingerprint
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments, StoredDocuments
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import as_recipient
from strongroom.storage_service.keyring.opening.wraps import Wrap
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid

WHAT: Final[Literal["strongroom keyring"]] = "strongroom keyring"
FORMAT: Final = 1  # a later one is refused, not guessed at
MAX_FILE: Final = 32 * 1024 * 1024  # bytes; a thousand machines take about 4 MiB
NAMELESS: Final = "-"  # what is left out, and has no fingerprint
ATTEMPTS: Final = 8  # at reading the keyring while others change it

Given: TypeAlias = str | RootKey | MachineKey
"""What opens a file: unlock keys or shares, as they were typed; what a root key file holds; a machine's key."""


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the table for people: whose key opens the file."""

    kind: Literal["file", "unlock", "shares", "machine"]
    id: str  # of a machine, its fingerprint
    created: str
    needed: int | None = None  # of shares: how many open it
    of: int | None = None  # and of how many
    name: str | None = None  # of a machine


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"format_": "format"}):
    """What the file says, member by member."""

    what: Literal["strongroom keyring"] = WHAT
    format_: int = FORMAT
    created: str
    root: str
    recipients: tuple[Recipient, ...]
    left_out: tuple[str, ...]
    wraps: tuple[Wrap, ...]
    machines: tuple[dict[str, Any], ...]
    keys: str
    seal: str


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was read: its parts are in order by themselves, and nothing is proven yet."""

    created: str  # RFC 3339, UTC
    root: str  # kid of the root key
    recipients: tuple[Recipient, ...]
    left_out: tuple[str, ...]  # fingerprints of machines that the store had, but whose authorization nothing proved
    wraps: tuple[Wrap, ...]
    machines: tuple[MachineDocument, ...]
    keys: bytes
    digest: bytes
    seal: bytes

    def __repr__(self) -> str:
        return f"<Exported keyring under {self.root} of {self.created}>"


async def export(backend: Backend, root: RootKey, machines: MachineDocuments | None = None) -> bytes:
    """Return the store's keyring as a file, of one moment.

    Machines go along if a flag under the root key proves them authorized; others the file names as left out.

    Args:
        backend: the store, opened; the bare one.
        root: the root key that the keyring is under; it seals the file.
        machines: where the documents of machines are; None: in the store.

    Raises:
        Uninitialized: there is no keyring.
        Overtaken: others keep changing the keyring.
        WrongRootKey: it is under another root key by now.
        KeyringDamaged, ConfigurationError: a part of it is damaged, or of a later version.
        Unavailable: the store or the machines' documents cannot be reached.
    """
    for _ in range(ATTEMPTS):
        if await stored.read(backend) is None:
            raise Uninitialized("there is no keyring")
        _, sealed = await stored.current(backend, root)
        held = await wraps.wraps_of(backend, root.kid)
        authorized, left_out = await _machines(machines or StoredDocuments(backend), root)
        entry = await backend.get(KEYRING_DOCUMENT)
        if entry is not None and entry.revision == sealed.revision:
            return _encode(root, held, authorized, left_out, sealed.token)
    raise Overtaken("others keep changing the keyring")


def read(text: bytes) -> Exported:
    """Return what is in a file, when all that can be told without a key is in order.

    Raises:
        Invalid: it is no export, or a part of one, or its parts do not belong together; nothing of it is repeated.
        ConfigurationError: a later version of this program wrote it.
    """
    if len(text) > MAX_FILE:
        raise Invalid(f"an export of a keyring has at most {MAX_FILE} bytes")
    try:
        said = strict_json.decode(text, most=len(text))
    except strict_json.MalformedJSON as error:
        raise Invalid(f"that is not an export of a keyring, or was cut short: {error}") from None
    if not isinstance(said, dict) or said.get("what") != WHAT:
        raise Invalid("that is not an export of a keyring")
    _not_later(said)
    try:
        file = msgspec.convert(said, _File)
        documents = tuple(_machine(each, file.root) for each in file.machines)
        exported = Exported(
            created=file.created,
            root=file.root,
            recipients=file.recipients,
            left_out=file.left_out,
            wraps=file.wraps,
            machines=documents,
            keys=file.keys.encode(),
            digest=_digest(said),
            seal=file.seal.encode(),
        )
    except (msgspec.ValidationError, UnicodeEncodeError):  # they may quote from it
        raise Invalid("the export is not of the accepted form") from None
    if fault := _fault(exported):
        raise Invalid(f"the export is damaged: {fault}")
    return exported


def open_root(exported: Exported, given: Given) -> RootKey:
    """Return the root key in *exported*, proven: it opens the seal, and the keys. Shares take some milliseconds.

    Raises:
        Mistyped: what was typed cannot be right; says which line.
        WrongKey: it opens nothing here.
        Invalid: it opens the root key, but the file was changed after it was made.
        KeyringDamaged, ConfigurationError: as `wraps.unwrap` and `Document.decode`.
    """
    root = _root(exported, given)
    prove(exported, root)
    return root


def prove(exported: Exported, root: RootKey) -> Document:
    """Return the keyring document in *exported*, after proving that a holder of *root* made the file as it is.

    Raises:
        WrongRootKey: the file is under another root key.
        Invalid: it was changed after it was made.
        ConfigurationError, KeyringDamaged: as `Document.decode`.
    """
    if exported.root != root.kid:
        raise WrongRootKey(f"the export is under {exported.root}, but the given root key is {root.kid}")
    try:
        digest = jwe.decrypt({root.kid: root}, EXPORT_SEAL, exported.seal)
    except Undecipherable:
        digest = b""
    if not hmac.compare_digest(digest, exported.digest):
        raise Invalid("the export was changed after it was made: its seal does not match")
    return stored.open_document(stored.Sealed(exported.keys, ABSENT, root.kid), root)


async def _machines(documents: MachineDocuments, root: RootKey) -> tuple[list[MachineDocument], list[str]]:
    """Return the documents of the machines that *root* proves authorized, without other root keys, and what is not."""
    authorized: list[MachineDocument] = []
    left_out: list[str] = []
    for fingerprint, entry in sorted((await documents.get_all()).items()):
        try:
            document = MachineDocument.decode(entry.value, fingerprint)
            proven = root.kid in document.keys and root.kid in document.meta.authorizer
            document.allowed(root)
        except StrongroomError:
            proven = False
        if not proven:
            left_out.append(fingerprint if is_fingerprint(fingerprint) else NAMELESS)
            continue
        authorized.append(only_of(document, root.kid))
    return authorized, left_out


def only_of(document: MachineDocument, root: str) -> MachineDocument:
    """Return *document* as an export has it: of the root key *root*, and of no other."""
    for kid in (document.keys.keys() | document.meta.authorizer.keys()) - {root}:
        document = document.without_root(kid)
    return document


def _encode(
    root: RootKey,
    held: Sequence[Wrap],
    machines: Sequence[MachineDocument],
    left_out: Sequence[str],
    keys: bytes,
) -> bytes:
    """Return the file, sealed."""
    file = _File(
        created=stored.now(),
        root=root.kid,
        recipients=_table(held, machines),
        left_out=tuple(left_out),
        wraps=tuple(held),
        machines=tuple(msgspec.to_builtins(each) for each in machines),
        keys=keys.decode(),
        seal="",
    )
    said = msgspec.to_builtins(file)
    said["seal"] = jwe.encrypt(root, EXPORT_SEAL, _digest(said)).decode()
    return msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n"


def _table(held: Sequence[Wrap], machines: Sequence[MachineDocument]) -> tuple[Recipient, ...]:
    return (
        *(
            Recipient(kind=wrap.kind, id=wrap.id, created=wrap.created, needed=wrap.threshold, of=wrap.total)
            for wrap in held
        ),
        *(Recipient(kind="machine", id=each.fingerprint, created=each.created(), name=each.name) for each in machines),
    )


def _digest(said: Mapping[str, Any]) -> bytes:
    """Return the digest of all but the seal."""
    rest = {name: member for name, member in said.items() if name != "seal"}
    return sha256(msgspec.json.encode(rest, order="sorted")).digest()


def _not_later(said: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if a later version of this program wrote the file, or a wrap in it."""
    parts = said.get("wraps")
    formats = [(said, FORMAT), *((each, wraps.FORMAT) for each in (parts if isinstance(parts, list) else ()))]
    for part, known in formats:
        written = part.get("format") if isinstance(part, dict) else None
        if isinstance(written, int) and written > known:
            raise ConfigurationError(
                "the export is of a format that this version does not know: a later version wrote it; run that one"
            )


def _machine(said: Mapping[str, Any], root: str) -> MachineDocument:
    """Return the document of a machine, if it is one, with a wrap of that root key."""
    fingerprint = said.get("_id")
    if not isinstance(fingerprint, str) or not is_fingerprint(fingerprint):
        raise Invalid("the export is damaged: a machine in it has no fingerprint")
    try:
        document = MachineDocument.decode(msgspec.json.encode(said), fingerprint)
    except KeyringDamaged:
        document = None
    if document is None or document.keys.keys() != {root}:
        raise Invalid("the export is damaged: the document of a machine in it")
    return document


def _fault(exported: Exported) -> str:
    """Return what does not belong together in *exported*, "" if nothing."""
    if not is_root_kid(exported.root) or jwe.kid_of(exported.keys) != exported.root:
        return "its keys are under another root key than it says"
    if jwe.kid_of(exported.seal) != exported.root:
        return "its seal is under another root key than its keys"
    if any(each.root != exported.root for each in exported.wraps):
        return "a wrap in it is of another root key"
    held = [each.recipient for each in exported.wraps] + [each.fingerprint for each in exported.machines]
    if len(set(held)) != len(held):
        return "a recipient is in it twice"
    if not all(_is_name(each) for each in held) or not all(_is_left_out(each) for each in exported.left_out):
        return "it names something that cannot have a name here"
    if exported.recipients != _table(exported.wraps, exported.machines):
        return "its table does not match its wraps and machines"
    return ""


def _is_name(recipient: str) -> bool:
    try:
        return "/" not in names.check(recipient)
    except InvalidName:
        return False


def _is_left_out(text: str) -> bool:
    return text == NAMELESS or is_fingerprint(text)


def _root(exported: Exported, given: Given) -> RootKey:
    """Return the root key that *given* opens."""
    if isinstance(given, MachineKey):
        for document in exported.machines:
            if document.fingerprint == given.fingerprint:
                return document.opened_by(given, exported.root)
    else:
        keys = unlock_keys.parse(given).keys if isinstance(given, str) else (as_recipient(given),)
        held = {each.recipient: each for each in exported.wraps}
        for key in keys:
            if key.kid in held:
                return wraps.unwrap(held[key.kid], key)
    raise WrongKey("no key that was given opens this export; its recipients say which keys do")
