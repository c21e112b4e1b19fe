"""What crosses the socket about keys: the bodies and answers of every resource under ``/keyring``.

Key material crosses here twice, and on the socket alone: when keys have just been made, to be handed to their holders,
and when people type them to unlock or to confirm. Both stay out of every repr. The proxy forwards none of these paths.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from strongroom.models.steps import Step

KEYRING_PATH: Final = "/keyring"

DEFAULT_TOTAL: Final = 5  # unlock keys, or shares, when nobody says how many
DEFAULT_LIMIT: Final = 100  # records looked at in one step of re-encryption
MAX_LIMIT: Final = 1000
MIN_PACE: Final = 0.01

Mode: TypeAlias = Literal["file", "unlock", "shares", "machine"]
State: TypeAlias = Literal["uninitialized", "locked", "unlocked", "rotating", "behind", "fatal"]

# Bodies


class NewKeyring(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/init``: who is to open the keyring, and how many *keys* a generation of a keyset has.

    *again*: in the place of one whose keys were lost before anything was encrypted under it.
    """

    mode: Mode
    total: int = DEFAULT_TOTAL
    needed: int | None = None
    keys: int = 1
    again: bool = False


class NewRoot(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/root``: who is to open the keyring from then on; *keep_file*: by the same key file."""

    mode: Mode
    total: int = DEFAULT_TOTAL
    needed: int | None = None
    keep_file: bool = False


class Typed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/unlock`` and ``/keyring/root/<kid>``: keys or shares, a line each; None: the file."""

    text: str | None = None

    def __repr__(self) -> str:
        return "<Typed>"


class NewKeyset(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/keysets``: its name, and how many keys its generations have."""

    name: str
    keys: int = 1


class Rotation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/keysets/<name>/rotate``; *keys* None: as many as the generation before."""

    keys: int | None = None


class Assigning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/assign``: the full name of a container, ``secrets/hosts/``, and its keyset."""

    container: str
    keyset: str


class Reencryption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/reencrypt``: one step; *after* is what the step before answered, None at the beginning.

    With *resume*, a record that does not open stops nothing, also while its keyset is being reverted. *pace* is the
    part of the worker's time that the step may take, from 0.01 to 1.
    """

    keyset: str | None = None
    after: str | None = None
    limit: int = DEFAULT_LIMIT
    resume: bool = False
    pace: float = 1.0


class Resumption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/resume``: write secrets again; *leave_unreadable*: although some could not be moved."""

    keyset: str
    leave_unreadable: bool = False


class Retirement(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/retire``: the generation to destroy, ``default.1``."""

    generation: str


class Scanning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/usage/scan``; *repair*: put right what the index says wrongly."""

    repair: bool = False


class NewBackup(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /keyring/backups``: what the backup is called."""

    label: str


# Answers


class KeysMade(msgspec.Struct, kw_only=True):
    """New keys, told this once: for *mode* ``unlock`` any of *keys* opens, for ``shares`` *needed* of them together."""

    root: str  # kid of the root key that they open
    mode: Mode
    keys: list[str]
    needed: int | None = None

    def __repr__(self) -> str:
        return f"<KeysMade {len(self.keys)} for {self.root}>"


class Recipient(msgspec.Struct, kw_only=True):
    """Somebody who can open the keyring; nothing here is secret."""

    kind: str  # "file" | "unlock" | "shares" | "machine"
    id: str
    created: str
    needed: int | None = None  # of shares
    total: int | None = None
    name: str | None = None  # of a machine


class Generation(msgspec.Struct, kw_only=True):
    """One generation of a keyset, and how many records the index counts under it."""

    generation: str
    created: str
    keys: int
    active: bool
    records: int


class Keyset(msgspec.Struct, kw_only=True):
    """A keyset and its generations, oldest first."""

    name: str
    active: str
    keys: int
    reverting: bool
    protected: bool
    generations: list[Generation]


class Place(msgspec.Struct, kw_only=True):
    """The keyset of the records under a prefix, and those *before* it that records there may still be under."""

    prefix: str
    keyset: str
    before: list[str]


class Backup(msgspec.Struct, kw_only=True):
    """A registered copy of the store, and the generations without which it cannot be read."""

    label: str
    taken: str
    generations: list[str]


class Halt(msgspec.Struct, kw_only=True):
    """Why secrets are not written for now."""

    keyset: str
    since: str
    reason: str


class Pending(msgspec.Struct, kw_only=True):
    """Something that was begun, or is due, and what goes on with it."""

    what: str
    next: list[Step]
    keyset: str | None = None
    root: str | None = None
    records: int | None = None
    recipients: list[Recipient] = []  # of a root key that was prepared


class KeyringStatus(msgspec.Struct, kw_only=True):
    """Answer of ``GET /keyring``; while the service is locked, only what can be told without keys."""

    state: State
    wrong_keys: int  # since the last right one
    wait: float  # seconds until another may be tried
    root: str | None = None
    recipients: list[Recipient] = []
    keysets: list[Keyset] = []
    places: list[Place] = []
    backups: list[Backup] = []
    pending: list[Pending] = []
    halted: Halt | None = None
    counted: bool | None = None  # whether the index is known to be complete
    proposed: Mode | None = None  # while there is no keyring: who is to open it, going by what the service was given


class Reencrypted(msgspec.Struct, kw_only=True):
    """Answer of one step; *after* goes into the next, None: the end, and *settled* says whether nothing is left."""

    moved: int
    overtaken: int
    unreadable: list[str]
    after: str | None
    settled: bool = False
    left: list[str] = []  # names, at the end


class KeyUsage(msgspec.Struct, kw_only=True):
    """Answer of ``GET /keyring/usage``: generation to number of records."""

    counted: bool
    generations: dict[str, int]


class Scan(msgspec.Struct, kw_only=True):
    """Answer of a scan of all values: what they are under, and where the index says otherwise."""

    by_kid: dict[str, int]
    by_generation: dict[str, int]
    missing: int
    stale: int
    unreadable: list[str]
    repaired: bool
