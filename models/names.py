"""The grammar of names: one string that is storage key, access resource, bound data and audit subject at once.

    secrets/hosts/10.0.0.7      a secret: container "hosts", key "10.0.0.7"
    secrets/hosts/              a container, with its trailing slash
    hosts/10.0.0.7              a plain record

A name is at most 512 bytes of segments of ``[A-Za-z0-9._@:+-]`` joined by ``/``. Dot segments and empty segments
do not exist, so that no two spellings can mean one record and none can climb out of its container.

`MAP` is the one map of what lies where in a backend. A prefix is spelled here and nowhere else, and a new one is a
constant and a line of the map; docs/formats.md shows the same table.
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple

from strongroom.models.errors import InvalidName

MAX_NAME: Final = 512  # bytes
_LAST: Final = "~"  # sorts behind every character that a name may have
_AFTER_SLASH: Final = "0"  # the character that comes next
SECRETS: Final = "secrets/"  # where every secret lives, and nothing else
SYSTEM: Final = "system/"  # the service's own records: wrapped keys, access, journals

KEYRING: Final = SYSTEM + "keyring/"
KEYRING_DOCUMENT: Final = KEYRING + "keys"  # the one name it lies under; its revision is the epoch of the keyring
WRAPS: Final = KEYRING + "wraps/"
MACHINES: Final = KEYRING + "machines/"
MACHINE_FLAGS: Final = KEYRING + "flags/"  # what a flag is bound to, with the fingerprint
ENDORSEMENTS: Final = KEYRING + "endorsements/"
EXPORT_SEAL: Final = KEYRING + "export"  # what the seal of an export is bound to
USAGE: Final = SYSTEM + "usage/"
ACCESS: Final = SYSTEM + "access/"
APIKEYS: Final = ACCESS + "apikeys/"
USERS: Final = ACCESS + "users/"
SERVICES: Final = ACCESS + "services/"
GROUPS: Final = ACCESS + "groups/"
RULES: Final = ACCESS + "rules/"
EPOCH: Final = ACCESS + "epoch"  # its revision is that of all access
LOGINS: Final = ACCESS + "logins/"
REVOKED: Final = ACCESS + "revoked/"
TOKENS: Final = SYSTEM + "tokens"  # what is decided on, and recorded, where tokens are given out and ended
USED: Final = ACCESS + "used/"
SPENT: Final = SYSTEM + "spent/"
RESTORE: Final = SYSTEM + "restore"
JOURNAL: Final = SYSTEM + "journal/"
MIGRATION: Final = JOURNAL + "migration/"
TOMBSTONES: Final = JOURNAL + "read_through/"  # and the name of a secret that is not to be read through any more

# What is asked of the service itself: names for rules and the audit log.
STATUS: Final = SYSTEM + "status"
READY: Final = SYSTEM + "ready"
WHOAMI: Final = SYSTEM + "whoami"
HANDLERS: Final = SYSTEM + "handlers"
DECISIONS: Final = SYSTEM + "audit/decisions"  # those on record

ENCRYPTED: Final = (SECRETS, ACCESS, JOURNAL)
"""Where the values are that only data keys open; containers among them are empty, and not encrypted."""


class Encryption(StrEnum):
    """How what lies under a prefix is encrypted."""

    DATA = "by a data key"  # opens under its own name alone, and is counted in the index
    ROOT = "by the root key"  # opens under its own name alone
    RECIPIENT = "for its recipient"
    CLEAR = "no"
    NOTHING = "nothing lies there"  # a name that something is bound to, or that rules and the audit log speak of


class Prefix(NamedTuple):
    """One line of the map. *form* is the whole name, with what differs between records in angle brackets."""

    form: str
    holds: str
    reader: str
    encryption: Encryption

    @property
    def text(self) -> str:
        """What every name of this line begins with; empty for plain records, which lie wherever nothing else does."""
        return self.form.partition("<")[0]


MAP: Final = (
    Prefix(f"{SECRETS}<container>/", "a container's marker; empty", "whoever lists secrets", Encryption.CLEAR),
    Prefix(
        f"{SECRETS}<container>/<key>",
        "a secret; a JWE in compact form",
        "whoever may read it",
        Encryption.DATA,
    ),
    Prefix(
        "<plural>/<key>",
        "a plain record: `hosts/<address>`, `clusters/<name>`, `networks/<name>`, …; JSON",
        "whoever may read it",
        Encryption.CLEAR,
    ),
    Prefix(
        KEYRING_DOCUMENT,
        "the keyring: all data keys and what they are used for; a JWE",
        "the service",
        Encryption.ROOT,
    ),
    Prefix(
        f"{WRAPS}<root>/<kind>.<id>",
        "the root key for one recipient; JSON with a JWE inside",
        "that recipient",
        Encryption.RECIPIENT,
    ),
    Prefix(
        f"{MACHINES}<fingerprint>",
        "a machine: its public key, its wraps of the root key, and its flag; JSON with JWEs inside",
        "that machine",
        Encryption.RECIPIENT,
    ),
    Prefix(f"{MACHINE_FLAGS}<fingerprint>", "what a machine's flag is bound to", "the service", Encryption.NOTHING),
    Prefix(
        f"{ENDORSEMENTS}<root>",
        "that this root key took the place of the one before it; a JWE under a key derived from that one",
        "machines that knew the one before",
        Encryption.ROOT,
    ),
    Prefix(EXPORT_SEAL, "what the seal of an exported keyring is bound to", "who imports it", Encryption.NOTHING),
    Prefix(
        f"{USAGE}<generation>/<name>",
        "that the record of that name is under that generation of a keyset; empty",
        "who re-encrypts and retires keys",
        Encryption.CLEAR,
    ),
    Prefix(
        f"{APIKEYS}<id>",
        "an API key's verifier, reach and end, and the verifier of the one before while that is good; JSON",
        "the service",
        Encryption.DATA,
    ),
    Prefix(f"{USERS}<name>", "a person and the credentials of theirs; JSON", "the service", Encryption.DATA),
    Prefix(f"{SERVICES}<name>", "a program and its credentials; JSON", "the service", Encryption.DATA),
    Prefix(f"{GROUPS}<name>", "a group and its members; JSON", "the service", Encryption.DATA),
    Prefix(f"{RULES}<edition>/<name>", "a rule; JSON", "the service", Encryption.DATA),
    Prefix(
        EPOCH,
        "which edition of the rules is in force, and what of access changed last; JSON",
        "the service",
        Encryption.DATA,
    ),
    Prefix(
        f"{LOGINS}<moment>-<hash>",
        "that a challenge was answered, until five minutes after it expires; JSON",
        "the service",
        Encryption.DATA,
    ),
    Prefix(
        f"{REVOKED}<jti>", "that a token is revoked, until it would have expired; JSON", "the service", Encryption.DATA
    ),
    Prefix(f"{USED}<kind>/<name>", "when credentials were last used; JSON", "the service", Encryption.DATA),
    Prefix(
        f"{SPENT}<kind>/<name>/",
        "that a name was given once to one of that kind, and is given to nobody again; empty",
        "the service",
        Encryption.CLEAR,
    ),
    Prefix(
        RESTORE,
        "the checksums of the backup, while the store is being restored; no service starts on it",
        "who restores",
        Encryption.CLEAR,
    ),
    Prefix(
        f"{JOURNAL}<work>/<row>",
        "what a long work needs to be gone on with, or undone; text",
        "who does that work",
        Encryption.DATA,
    ),
    Prefix(f"{MIGRATION}<row>", "the journal of a migration (below); JSON", "who migrates", Encryption.DATA),
    Prefix(
        f"{TOMBSTONES}<name>",
        "a tombstone: the secret of that name is not to be read where it has not moved from; empty",
        "the service, who migrates",
        Encryption.DATA,
    ),
    Prefix(TOKENS, "that somebody logs in, or that a token ends", "the service", Encryption.NOTHING),
    Prefix(STATUS, "the state of the service", "whoever may read it", Encryption.NOTHING),
    Prefix(READY, "whether the store answers", "everybody", Encryption.NOTHING),
    Prefix(WHOAMI, "who the caller is", "the caller", Encryption.NOTHING),
    Prefix(HANDLERS, "which handler keeps which records", "whoever may list them", Encryption.NOTHING),
    Prefix(DECISIONS, "the decisions in the audit log", "whoever has `audit`", Encryption.NOTHING),
)
RESERVED: Final = frozenset(line.text.partition("/")[0] for line in MAP if line.text)
"""What no plain records are called: the first segments of all that has a place of its own."""

_CHARACTERS: Final = "unaccented letters, digits and . _ @ : + - alone, in parts with slashes between them"
_OTHERS: Final = re.compile(r"[^A-Za-z0-9._@:+/-]", re.ASCII)
_NAME = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._@:+-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._@:+-]+)*/?", re.ASCII)


def check(name: str) -> str:
    """Return *name* if the grammar allows it.

    Raises:
        InvalidName: it does not; the message names the rule and never the name.
    """
    if len(name) > MAX_NAME:
        raise InvalidName(f"a name is at most {MAX_NAME} bytes")
    if _NAME.fullmatch(name) is None:
        raise InvalidName(_fault(name))
    return name


def _fault(name: str) -> str:
    """Return what is wrong with *name*, in words that have nothing of it."""
    if "%" in name:
        return "a name has no percent sign: it is written as it is, and of " + _CHARACTERS
    if _OTHERS.search(name) is not None:
        return "a name is of " + _CHARACTERS
    parts = name.removesuffix("/").split("/")
    if "." in parts or ".." in parts:
        return "no part of a name is '.' or '..'"
    return "a part of a name is empty: slashes stand between parts alone, one each, and none before the first"


def is_container(name: str) -> bool:
    """Whether *name* is a folder of names: containers carry a trailing slash."""
    return name.endswith("/")


def container_of(name: str) -> str:
    """Return the container that *name* lies in, with its trailing slash ("" at the top).

    ``secrets/hosts/10.0.0.7`` and ``secrets/hosts/sub/`` both lie in ``secrets/hosts/``.
    """
    return name[: name.rstrip("/").rfind("/") + 1]


def behind(begun: str) -> str:
    """Return a text, no name, behind *begun* and every name that begins with it, and before what follows those."""
    return begun + _LAST


def past(container: str) -> str:
    """Return a name that sorts behind all that *container* holds, and before every other container that follows it."""
    return container.removesuffix("/") + _AFTER_SLASH


def before(begun: str) -> str:
    """Return a text, no name, before *begun* and every name that begins with it, and behind what precedes those."""
    return begun[:-1] + chr(ord(begun[-1]) - 1) + _LAST if begun else ""
