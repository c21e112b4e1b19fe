"""Who may do what: principals, groups and rules, as they are kept, and the grammar of what they are called.

    system/access/users/<name>     a person      system/access/groups/<name>   principals, each with a role
    system/access/services/<name>  a program     system/access/rules/<name>    who may do what to which names

A principal is spelled with its kind, ``user:ann``, ``service:runner``; a group in a rule is ``group:ops``. Names of
users, services and API keys are of one space, in which case makes no difference, and none is ever given to another.
"""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from strongroom.models.errors import InvalidName, ModelError
from strongroom.models.names import MAX_NAME
from strongroom.models.strict_json import UNREADABLE

FORMAT: Final = 1
EVERYBODY: Final = "*"  # as a subject: every principal that is known
OWN: Final = "{principal}"  # as a whole segment of a pattern: the name of whoever asks
PROTECTED: Final = frozenset(("root", "recovery"))  # users that are never removed, nor left without a credential
ADMINISTRATORS: Final = "administrators"  # the group whose members a rule of the same name lets do everything

MAX_CREDENTIALS: Final = 32  # of one principal
MAX_MEMBERS: Final = 10_000  # of one group
MAX_ENTRIES: Final = 256  # subjects, patterns or networks of one rule
MAX_NOTE: Final = 500  # characters

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_SEGMENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._@:+-]+", re.ASCII)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4 within IPv6: clients are known by their IPv4 address
_KINDS: Final = frozenset(("user", "service", "apikey", "machine", "group"))


class Kind(StrEnum):
    """The principals that have a record of their own."""

    USER = "user"
    SERVICE = "service"


class Role(StrEnum):
    """What a member of a group is: a manager adds and removes members."""

    MEMBER = "member"
    MANAGER = "manager"


class Right(StrEnum):
    """What a rule speaks of. The last six are an operator's, and dangerous ones are never part of another."""

    READ = "read"
    CREATE = "create"
    MODIFY = "modify"
    DELETE = "delete"
    LIST = "list"
    USE = "use"
    LOCK = "lock"
    ROTATE = "rotate"
    EXPORT = "export"
    MIGRATE = "migrate"
    AUDIT = "audit"
    ACCESS = "access"


Effect = Literal["allow", "deny"]


class InvalidAccess(ModelError):
    """A principal, group or rule cannot be as it was given; the message names the rule and never what was given."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Credential(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a principal proves itself with, as it is kept: nothing in it opens anything, but a guess at a password.

    *data* is the kind's own: the hash of a password, a public key (PEM), a certificate's URI or fingerprint, a uid.
    """

    id: str  # 32 hex digits
    kind: str  # a name in the registry of credentials
    name: str  # what people call it
    data: str
    created: str
    expires: str | None = None

    def __repr__(self) -> str:
        return f"<Credential {self.id} of kind {self.kind}>"


class PrincipalRecord(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"format_": "format"}
):
    """A user or a service, and its credentials; *pending*: it waits to be set up, with a code and until when."""

    format_: int = FORMAT
    created: str
    created_by: str
    note: str = ""
    disabled: bool = False
    credentials: tuple[Credential, ...] = ()
    pending: "Pending | None" = None
    epoch: int = 0  # tokens of another are worth nothing
    ends: str | None = None  # from when on tokens of before are worth nothing


class Pending(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A window in which a principal sets its first credential with a code, of which the hash is kept."""

    code: str  # SHA-256 of the code, hex: 128 random bits, so that there is nothing to guess
    expires: str

    def __repr__(self) -> str:
        return "<Pending>"


class Group(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"format_": "format"}):
    """A group: its members, ``user:ann`` …, each with a role."""

    format_: int = FORMAT
    created: str
    created_by: str
    note: str = ""
    members: dict[str, Role] = {}


class Rule(
    msgspec.Struct,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    frozen=True,
    rename={"format_": "format"},
):
    """Who may, or may not, do what to which names; from where, and until when, where that is said."""

    format_: int = FORMAT
    effect: Effect
    subjects: tuple[str, ...]
    actions: tuple[Right, ...]
    names: tuple[str, ...]
    networks: tuple[str, ...] = ()  # (): from everywhere, also where there is no network
    expires: str | None = None
    note: str = ""
    created: str = ""
    created_by: str = ""


def check_name(name: str) -> str:
    """Return *name* if a principal, a group or a rule can be called so.

    Raises:
        InvalidName: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidName("it is 1 to 64 of [A-Za-z0-9._@+-] and begins with a letter or digit")
    return name


def check_subject(subject: str) -> str:
    """Return *subject* if it can be whom a rule speaks of.

    Raises:
        InvalidName: it cannot.
    """
    kind, colon, name = subject.partition(":")
    if subject != EVERYBODY and (not colon or kind not in _KINDS or _NAME.fullmatch(name) is None):
        raise InvalidName("a subject is '*', or user:, service:, apikey:, machine: or group: and a name")
    return subject


def check_pattern(pattern: str) -> str:
    """Return *pattern* if it is one: segments as of names, whole ones ``*``, ``{principal}``, last ``**``.

    Raises:
        InvalidName: they cannot.
    """
    segments = pattern.removesuffix("/").split("/")
    if len(pattern) > MAX_NAME or not all(
        _SEGMENT.fullmatch(each) or each in ("*", OWN) or (each == "**" and number == pattern.count("/") + 1)
        for number, each in enumerate(segments, 1)
    ):
        raise InvalidName(
            "a pattern is segments of [A-Za-z0-9._@:+-] joined by single slashes; '*' and '{principal}' stand for one "
            "whole segment, '**' at the end for all that lies below"
        )
    return pattern


def check_rule(rule: Rule) -> Rule:
    """Return *rule* if it is one.

    Raises:
        InvalidAccess: it is not; with the member that is wrong.
    """
    for field, entries, check in (
        ("subjects", rule.subjects, check_subject),
        ("actions", rule.actions, str),
        ("names", rule.names, check_pattern),
        ("networks", rule.networks, check_network),
    ):
        if len(entries) > MAX_ENTRIES or (not entries and field != "networks") or len(set(entries)) < len(entries):
            raise InvalidAccess(f"{field} are 1 to {MAX_ENTRIES}, none of them twice", field)
        try:
            for entry in entries:
                check(entry)
        except InvalidName as error:
            raise InvalidAccess(str(error), field) from None
    if len(rule.note) > MAX_NOTE:
        raise InvalidAccess(f"a note is at most {MAX_NOTE} characters", "note")
    if rule.expires is not None:
        check_time(rule.expires, "expires")
    return rule


def check_network(network: str) -> str:
    """Return *network* if it is an address, or a network in CIDR form, of IPv4 or IPv6.

    Raises:
        InvalidName: it is not, or no client ever comes from there.
    """
    try:
        known = ipaddress.ip_network(network)
    except ValueError:
        raise InvalidName("a network is an address, or an address and a prefix length, with no bit set below") from None
    if known.subnet_of(_MAPPED) if known.version == 6 else "." in network.partition("/")[2]:
        raise InvalidName("a network of IPv4 is spelled as one of IPv4, with the length of its prefix")
    if "%" in network:
        raise InvalidName("a network has no zone: a zone means something on one machine alone")
    return network


def check_time(text: str, field: str) -> datetime:
    """Return the moment that *text* says, which is spelled as `told` does: so that no moment has two spellings.

    Raises:
        InvalidAccess: it is not.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None or told(moment) != text:
        raise InvalidAccess("a time is as in 2026-11-30T12:00:00Z", field)
    return moment


def told(moment: datetime) -> str:
    """Return how *moment* is kept."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def decode(text: bytes, kind: type[Any]) -> Any:
    """Return the record of that *kind* that *text* holds.

    Raises:
        InvalidAccess: it holds none, or one of a later format.
    """
    try:
        record = msgspec.json.decode(text, type=kind)
    except UNREADABLE:
        raise InvalidAccess("the record is damaged", "record") from None
    if record.format_ != FORMAT:
        raise InvalidAccess("it is a record of a later format", "format")
    return record


def in_order(rules: Sequence[tuple[str, Rule]]) -> list[tuple[str, Rule]]:
    """Return *rules* by name: their order means nothing."""
    return sorted(rules)
