"""The machines that may open the keyring by themselves: a document each, and in it a wrap and a flag for each root key.

    {"_id":"<fingerprint>","format":1,"keys":{"root.…":"<wrap>"},
     "meta":{"authorizer":{"root.…":"<flag>"},"created_at":1763800000},"name":"db-1","public":{…}}

The *flag* says whether the machine may authorize others: ``{"allowed":true}``, encrypted under the root key and bound
to the machine's fingerprint. So it cannot be flipped without the root key, nor copied to another machine with it.
Whoever holds the root key can make flags as they like, and being one of them is what a server is authorized for: the
flag keeps honest machines to their part, and shows others only if somebody compares `listed` with what they expect.

Documents come from the store and are not trusted. That a flag, of either value, opens is the proof that a holder of
the root key authorized this very public key; the name and the date are labels that nothing proves.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Protocol, Self, TypeVar

import msgspec

from strongroom.models import strict_json
from strongroom.models.names import MACHINE_FLAGS
from strongroom.storage_service.errors import (
    ConfigurationError,
    Internal,
    Invalid,
    KeyringDamaged,
    NotFound,
    StrongroomError,
    Undecipherable,
    WrongKey,
)
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid

FORMAT: Final[Literal[1]] = 1  # of a document; a later one is refused, not guessed at
MAX_DOCUMENT: Final = 64 * 1024  # bytes; with two root keys it is about 4 KiB
MIN_PREFIX: Final = 8  # characters of a fingerprint that stand for one machine
SHORT: Final = 16  # characters of a fingerprint that are shown

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# As an API key's id, but nothing that could be taken for a fingerprint, or its beginning as it is shown.
_NAME: Final = re.compile(rf"(?![0-9a-f]{{{SHORT},}}\Z)[A-Za-z0-9][A-Za-z0-9._@+-]{{0,63}}", re.ASCII)
_YEAR_10000: Final = 253_402_300_800  # seconds since 1970-01-01; dates end there
_NOTHING: Final = "-"  # in a listing; no name and no fingerprint


class FlagTampered(Internal):
    """A flag does not open under the root key as this machine's: it was changed, copied, or is of another root key."""

    def __init__(self) -> None:
        super().__init__("capability flag failed authentication — tampered or wrong DEK")


def is_fingerprint(text: object) -> bool:
    """Whether *text* has the form of a machine's fingerprint."""
    return isinstance(text, str) and _FINGERPRINT.fullmatch(text) is not None


def is_name(text: object) -> bool:
    """Whether *text* can be a machine's name: 1 to 64 of ``A-Z a-z 0-9 . _ @ + -``, a letter or digit first."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def seal_flag(root: RootKey, fingerprint: str, allowed: bool) -> str:
    """Return the flag of the machine with that fingerprint."""
    return jwe.encrypt(root, MACHINE_FLAGS + fingerprint, msgspec.json.encode({"allowed": allowed})).decode()


def read_flag(root: RootKey, fingerprint: str, text: str) -> bool:
    """Return what *text*, the flag of the machine with that fingerprint, says; what it says unclearly is False.

    Raises:
        FlagTampered: it does not open.
    """
    try:
        said = jwe.decrypt({root.kid: root}, MACHINE_FLAGS + fingerprint, text.encode(errors="replace"))
    except Undecipherable:
        said = None
    if said is None:
        raise FlagTampered
    try:
        plain = strict_json.decode(said)
    except strict_json.MalformedJSON:
        return False
    return isinstance(plain, dict) and plain.keys() == {"allowed"} and plain["allowed"] is True


class Meta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of a machine; of it the flags alone are proven."""

    authorizer: dict[str, str] = {}  # root kid to flag
    created_at: Annotated[int, msgspec.Meta(ge=0, lt=_YEAR_10000)]  # seconds since 1970-01-01, UTC


class MachineDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of one machine. Every change returns a new document and leaves this one as it is."""

    fingerprint: str = msgspec.field(name="_id")
    format_: Literal[1] = msgspec.field(name="format")
    keys: dict[str, str] = {}  # root kid to wrap
    meta: Meta
    name: str
    public: dict[str, str]  # JWK

    @classmethod
    def new(cls, name: str, public: Mapping[str, str], created_at: int) -> Self:
        """Return the document of a machine that is authorized for nothing yet.

        Args:
            name: what people call it.
            public: the members of its public key's JWK.
            created_at: seconds since 1970-01-01, UTC.

        Raises:
            Invalid: the name or the key is invalid.
        """
        if not is_name(name):
            raise Invalid(
                "a machine's name is 1 to 64 of [A-Za-z0-9._@+-], begins with a letter or digit, and is not"
                " a fingerprint",
                (("name", "is not a machine's name"),),
            )
        try:
            fingerprint = machine_key.fingerprint_of(public)
        except ValueError as error:
            raise Invalid(f"that is not a machine's public key: {error}", (("public", str(error)),)) from None
        return cls(
            fingerprint=fingerprint,
            format_=FORMAT,
            meta=Meta(created_at=created_at),
            name=name,
            public=dict(public),
        )

    @classmethod
    def decode(cls, raw: bytes, fingerprint: str) -> Self:
        """Return the document in *raw*, which was found under that fingerprint.

        Raises:
            KeyringDamaged: it is invalid, or another machine's; nothing of it is repeated.
            ConfigurationError: a later version of this program wrote it.
        """
        what = f"the document of the machine {fingerprint[:SHORT]}"
        try:
            said = _decoded(raw)
            written = _at(said, "format")
            if isinstance(written, int) and written > FORMAT:
                raise ConfigurationError(
                    f"{what} is of a format that this version does not know: a later version wrote it; run that one"
                )
            document = msgspec.convert(said, cls)
            fault = document._fault(fingerprint)
        except (ValueError, msgspec.ValidationError):  # they may quote from it
            fault = "it is not of the accepted form"
        else:
            if not fault:
                return document
        raise KeyringDamaged(f"{what} is damaged: {fault}; restore it from a backup, or revoke and authorize again")

    def encode(self) -> bytes:
        """Return the document as it is stored."""
        return msgspec.json.encode(self, order="sorted")

    def opened_by(self, key: MachineKey, root_kid: str) -> RootKey:
        """Return the root key *root_kid*.

        Raises:
            WrongKey: the document is another machine's, or has no wrap of that root key.
            KeyringDamaged: it has one, which does not open.
        """
        wrap = self.keys.get(root_kid)
        if key.fingerprint != self.fingerprint or wrap is None:
            raise WrongKey("this machine is not authorized for that root key")
        try:
            return key.unwrap(root_kid, wrap)
        except Undecipherable as error:
            reason = error.reason
        raise KeyringDamaged(
            f"the wrap for the machine {self.fingerprint[:SHORT]} does not open: {reason}; authorize the machine again"
        )

    def allowed(self, root: RootKey) -> bool:
        """Whether the machine may authorize others; a missing flag is a no.

        Raises:
            FlagTampered: its flag under that root key does not open.
        """
        flag = self.meta.authorizer.get(root.kid)
        return flag is not None and read_flag(root, self.fingerprint, flag)

    def with_root(self, root: RootKey, allowed: bool) -> Self:
        """Return the document with a wrap of *root*, and a flag under it: the machine is authorized."""
        return self._with(
            {**self.keys, root.kid: machine_key.wrap(root, self.public)},
            {**self.meta.authorizer, root.kid: seal_flag(root, self.fingerprint, allowed)},
        )

    def rewrapped(self, old: RootKey, new: RootKey) -> Self:
        """Return the document also with a wrap of *new*, and the flag that it has under *old*.

        The store can plant documents and exchange public keys. A flag that opens is what no planted one has, so
        without it no new root key is given away.

        Raises:
            FlagTampered: there is no flag under *old* that opens.
        """
        if old.kid not in self.meta.authorizer:
            raise FlagTampered
        return self.with_root(new, self.allowed(old))

    def without_root(self, kid: str) -> Self:
        """Return the document without wrap and flag of that root key."""
        keys, flags = (
            {each: text for each, text in held.items() if each != kid} for held in (self.keys, self.meta.authorizer)
        )
        return self._with(keys, flags)

    def created(self) -> str:
        """Return when the machine was first authorized, as `listed` shows it."""
        return _date(self.meta.created_at)

    def _with(self, keys: dict[str, str], flags: dict[str, str]) -> Self:
        return msgspec.structs.replace(self, keys=keys, meta=msgspec.structs.replace(self.meta, authorizer=flags))

    def _fault(self, fingerprint: str) -> str:
        """Return what is wrong with a document that was found under that fingerprint, "" if nothing is.

        Raises:
            ValueError: its public key is invalid.
        """
        if self.fingerprint != fingerprint:
            return "it is another machine's"
        if machine_key.fingerprint_of(self.public) != fingerprint:
            return "it has another machine's public key"
        if not is_name(self.name) or not all(map(is_root_kid, self.keys.keys() | self.meta.authorizer.keys())):
            return "it is not of the accepted form"
        return ""

    def __repr__(self) -> str:
        return f"<MachineDocument {self.name} {self.fingerprint[:SHORT]}>"


@dataclass(frozen=True, slots=True)
class Row:
    """One machine in a listing: only what is fit to be shown, whatever its document holds."""

    fingerprint: str
    name: str  # "-" if it has none
    authority: Literal["Yes", "No", "?"]  # "?": its flag cannot be read
    created: str  # "YYYY-MM-DD HH:MM:SS", UTC; "-" if that cannot be told
    why: str = ""  # what is wrong with the document or its flag


def listed(raw: bytes, root: RootKey | None = None, fingerprint: str | None = None) -> Row:
    """Return the row of a document, whatever is wrong with it; this never raises.

    Args:
        raw: the document, as it was found.
        root: what its flag is read with; None where the service is locked.
        fingerprint: what it was found under; None: what it says itself.
    """
    try:
        said = _decoded(raw)
    except ValueError:
        said = None
    own = _at(said, "_id")
    place = fingerprint or (own if isinstance(own, str) and is_fingerprint(own) else _NOTHING)
    why = ""
    authority: Literal["Yes", "No", "?"] = "?"
    try:
        if root is not None:
            flag = _at(said, "meta", "authorizer", root.kid)
            if isinstance(flag, str):
                authority = "Yes" if read_flag(root, place, flag) else "No"
            else:
                why = "it has no flag under this root key"
        MachineDocument.decode(raw, place)
    except StrongroomError as error:
        why = str(error)
    name = _at(said, "name")
    return Row(
        fingerprint=place,
        name=name if isinstance(name, str) and is_name(name) else _NOTHING,
        authority=authority,
        created=_date(_at(said, "meta", "created_at")),
        why=why,
    )


class Machine(Protocol):
    """What `find` looks for: a document or a row."""

    @property
    def fingerprint(self) -> str:
        """Its fingerprint."""

    @property
    def name(self) -> str:
        """What people call it."""


_Machine = TypeVar("_Machine", bound=Machine)


def find(machines: Iterable[_Machine], wanted: str) -> _Machine:
    """Return the one of *machines* that people mean by *wanted*: its name, or the beginning of its fingerprint.

    Raises:
        Invalid: *wanted* is empty, or more than one is meant.
        NotFound: none is, or only by less than `MIN_PREFIX` characters.
    """
    if not wanted:
        raise Invalid("fingerprint prefix must not be empty")
    known = list(machines)
    meant = [each for each in known if each.name == wanted and is_name(wanted)]
    if len(meant) > 1:
        raise Invalid(f"several machines have that name; give the fingerprint of one: {_shown(meant)}")
    if not meant:
        prefix = wanted.lower()
        meant = [each for each in known if each.fingerprint == prefix]
        if meant:
            return meant[0]
        meant = [each for each in known if each.fingerprint.startswith(prefix)]
        if len(meant) > 1:
            raise Invalid(f"fingerprint prefix '{prefix}' is ambiguous; matches: {_shown(meant)}")
        if meant and len(prefix) < MIN_PREFIX:  # "c", revoked twice, must not hit one whose fingerprint begins so
            raise NotFound(
                f"no machine is called '{prefix}', and it is too short for a fingerprint prefix; if this one is meant,"
                f" give {MIN_PREFIX} characters or more: {_shown(meant)}"
            )
    if not meant:
        raise NotFound("no machine has that name, or a fingerprint that begins so")
    return meant[0]


def _shown(machines: Iterable[Machine]) -> str:
    return ", ".join(each.fingerprint[:SHORT] for each in machines)


def _decoded(raw: bytes) -> Any:
    """Return the JSON value in *raw*.

    Raises:
        ValueError: it is too large for a document, or not JSON.
    """
    if len(raw) > MAX_DOCUMENT:
        raise ValueError("the document is too large")
    return strict_json.decode(raw)


def _at(value: Any, *path: str) -> Any:
    """Return the member of *value* at *path*, None where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _date(created_at: Any) -> str:
    """Return a date in UTC for seconds since 1970-01-01, "-" for what is not such a number."""
    if not created_at:
        return _NOTHING
    try:
        date = datetime.fromtimestamp(int(created_at), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return _NOTHING
    return date.replace(tzinfo=None).isoformat(" ", "seconds")
