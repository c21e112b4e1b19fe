"""The keyring document: all keysets, their generations and keys, and what is under way with them, as one JSON object.

    {"format":1,"keyring":"<its name>","edition":1764489600000,
     "keysets":{"default":{"active":2,"keys":1,"generations":[{"number":1,"created":…,"keys":["…"]},…]},…},
     "numbers":{"default":2,…},"places":{"system/access/":{"keyset":"access","before":[]},…},"backups":{…},"halted":null,
     "pending":null,"counted":true}

It lies in the store under `names.KEYRING_DOCUMENT` as a JWE under the root key, and is changed by compare-and-set
alone, so that every change of the keyring happens at once or not at all. What is in it was written by a holder of the
root key. Nothing here does I/O: each change is a method that returns another document, or says why it is refused.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import msgspec

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.names import ACCESS, SECRETS
from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError, Exists, InUse, Invalid, KeyringDamaged, NotFound
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.keyring.ring import DEFAULT_KEYSET, DataKey, Place, Ring, is_keyset

FORMAT: Final = 1  # a later one is refused, not guessed at

ACCESS_KEYSET: Final = "access"
ROOT_KEYSET: Final = "root"  # no keyset has this name: it would be taken for the root key's
TOKENS_KEYSET: Final = "tokens"  # nothing is encrypted under it: what logins and tokens are signed with comes of it
PROTECTED: Final = frozenset({ACCESS_KEYSET, ROOT_KEYSET, TOKENS_KEYSET, DEFAULT_KEYSET})

MAX_KEYS: Final = 32  # in one generation
MAX_GENERATIONS: Final = 12  # that one record may be under: with more, a write would not fit into a transaction

_NAME_SIZE: Final = 16  # bytes

Random = Callable[[int], bytes]
"""Gives that many unpredictable bytes."""


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """One generation of a keyset, and its keys of 64 bytes each, which stay out of the repr."""

    number: int
    created: str  # RFC 3339, UTC
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"<Generation {self.number} of {self.created}, {len(self.keys)} keys>"


class Keyset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A keyset: its generations, oldest first, and which of them is active.

    *keys* is how many a new generation gets. While *reverting*, an older generation is active again and what the newer
    ones encrypted is on its way back to it.
    """

    active: int
    keys: int
    generations: tuple[Generation, ...]
    reverting: bool = False


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keyset of the records under one prefix; those of *before* still have records there to be re-encrypted."""

    keyset: str
    before: tuple[str, ...] = ()


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A copy of the store that somebody took, and the generations without which it cannot be read."""

    taken: str  # RFC 3339, UTC
    generations: tuple[str, ...]


class Halt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why secrets are not written for now."""

    keyset: str
    since: str  # RFC 3339, UTC
    reason: str  # names, counts and kids; nothing secret


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root key that is to take the place of the one in use as soon as its recipients have shown that they open it."""

    root: str  # its kid
    since: str  # RFC 3339, UTC
    recipients: tuple[str, ...]  # kids of the keys that it is wrapped under; none: machines alone open it


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"format_": "format"}):
    """The whole keyring. Its JSON is as secret as the keys in it; its repr shows none of them.

    *numbers* is the highest number that any generation of a keyset ever had, retired ones and removed keysets among
    them: a kid means one key for ever. *keyring* names this keyring among all, and *edition* grows with every change.
    """

    keysets: dict[str, Keyset]
    numbers: dict[str, int]
    places: dict[str, Assignment] = msgspec.field(default_factory=dict)
    backups: dict[str, Backup] = msgspec.field(default_factory=dict)
    halted: Halt | None = None
    pending: Pending | None = None
    counted: bool = True  # whether every record has had its row in the index from its first write on
    keyring: str = ""  # 16 random bytes, hex; none before it is first stored
    edition: int = 0
    format_: int = FORMAT

    @classmethod
    def new(cls, now: str, keys: int = 1, random: Random = secrets.token_bytes) -> Self:
        """Return the first document of a store: keyset `default` for secrets, keyset `access` for API keys."""
        both = (ACCESS_KEYSET, DEFAULT_KEYSET)
        keysets = {name: Keyset(1, keys, (_generation(1, now, keys, random),)) for name in both}
        return cls(keysets, dict.fromkeys(both, 1), {ACCESS: Assignment(ACCESS_KEYSET)})

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Return the document that *text*, which a holder of the root key wrote, says.

        Raises:
            ConfigurationError: a later version of this program wrote it.
            KeyringDamaged: it contradicts itself; nothing of it is repeated.
        """
        try:
            said = msgspec.json.decode(text, type=_Format).format
            if said != FORMAT:
                raise ConfigurationError(
                    f"the keyring is of format {said}, which this version does not know: a later version wrote it; "
                    "run that one"
                )
            document = msgspec.json.decode(text, type=cls)
            document._check()
        except UNREADABLE:
            raise KeyringDamaged(
                "the keyring decrypts, but its document is invalid; restore it from a backup"
            ) from None
        return document

    def stored_at(self, now: int, random: Random = secrets.token_bytes) -> Self:
        """Return the document as it is to be stored: of an edition that no stored one has had.

        It is one more than before, and at least *now*, in milliseconds: so a keyring that is brought back by hand, from
        an old export, counts as newer than what it takes the place of, wherever that was seen.
        """
        name = self.keyring or random(_NAME_SIZE).hex()
        return msgspec.structs.replace(self, keyring=name, edition=max(self.edition + 1, now))

    def encode(self) -> bytes:
        """Return the JSON, all keys in it."""
        return msgspec.json.encode(self, order="deterministic")

    def ring(self, revision: int = 0, *, halted: bool = False) -> Ring:
        """Return the keys as the service uses them; *halted*: nothing may be encrypted, whatever the document says.

        Raises:
            ValueError: the document contradicts itself.
        """
        return Ring(
            (
                DataKey(kid, octets)
                for name, keyset in self.keysets.items()
                for generation in keyset.generations
                for kid, octets in zip(_kids(name, generation), generation.keys, strict=True)
            ),
            {name: keyset.active for name, keyset in self.keysets.items()},
            places={prefix: Place(each.keyset, each.before) for prefix, each in self.places.items()},
            revision=revision,
            halted=halted or self.halted is not None,
        )

    @property
    def generations(self) -> tuple[str, ...]:
        """All generations, ``<keyset>.<number>``, keyset by keyset, oldest first."""
        return tuple(
            f"{name}.{each.number}" for name in sorted(self.keysets) for each in self.keysets[name].generations
        )

    @property
    def active_generations(self) -> Mapping[str, str]:
        """Keyset to its active generation."""
        return {name: f"{name}.{keyset.active}" for name, keyset in self.keysets.items()}

    # Keysets

    def with_keyset(self, name: str, now: str, keys: int = 1, random: Random = secrets.token_bytes) -> Self:
        """Return the document with a new keyset.

        Raises:
            Invalid: the name is invalid or kept for the service, or not *keys* 1 to `MAX_KEYS`.
            Exists: there is one of that name.
        """
        if not is_keyset(name):
            raise Invalid("a keyset's name is 1 to 63 of [a-z0-9-]", (("name", "is not a keyset's name"),))
        if name in self.keysets:
            raise Exists("that keyset exists; use rotate for a new generation of it")
        if name in PROTECTED:
            raise Invalid("that name is kept for the service", (("name", "is protected"),))
        number = self.numbers.get(name, 0) + 1
        return self._with(
            keysets={**self.keysets, name: Keyset(number, keys, (_generation(number, now, keys, random),))},
            numbers={**self.numbers, name: number},
        )

    def with_tokens(self, now: str, random: Random = secrets.token_bytes) -> Self:
        """Return the document with the keyset that logins and tokens are signed with, if it was not there."""
        if TOKENS_KEYSET in self.keysets:
            return self
        number = self.numbers.get(TOKENS_KEYSET, 0) + 1
        made = Keyset(number, 1, (_generation(number, now, 1, random),))
        return self._with(
            keysets={**self.keysets, TOKENS_KEYSET: made}, numbers={**self.numbers, TOKENS_KEYSET: number}
        )

    def without_keyset(self, name: str) -> Self:
        """Return the document without that keyset; whether records are under it is for the caller to prove.

        Raises:
            NotFound: there is none of that name.
            InUse: it is protected, or a container is assigned to it, or a backup needs it.
        """
        keyset = self.keyset(name)
        if name in PROTECTED:
            raise InUse(f"the keyset {name} is protected: the service itself uses it")
        generations = {f"{name}.{each.number}" for each in keyset.generations}
        holders = [prefix for prefix, each in self.places.items() if name in (each.keyset, *each.before)]
        holders += [f"backup {label}" for label, each in self.backups.items() if generations & set(each.generations)]
        if holders:
            raise InUse(f"the keyset {name} is in use", tuple(holders))
        return self._with(keysets={each: of for each, of in self.keysets.items() if each != name})

    def keyset(self, name: str) -> Keyset:
        """Return the keyset of that name.

        Raises:
            NotFound: there is none.
        """
        try:
            return self.keysets[name]
        except KeyError:
            raise NotFound("there is no such keyset") from None

    # Generations

    def rotated(self, name: str, now: str, keys: int | None = None, random: Random = secrets.token_bytes) -> Self:
        """Return the document with a new generation of that keyset, active.

        Raises:
            NotFound: there is no such keyset.
            Invalid: not *keys* 1 to `MAX_KEYS`.
            InUse: a reversal of it is under way, or too many old generations are not retired yet.
        """
        keyset = self.keyset(name)
        if keyset.reverting:
            first = Step("finish that first", "key reencrypt", {"keyset": name})
            raise InUse(f"{name} is being reverted").advising(first)
        number, count = self.numbers[name] + 1, keyset.keys if keys is None else keys
        generations = (*keyset.generations, _generation(number, now, count, random))
        return self._with(
            keysets={**self.keysets, name: Keyset(number, count, generations)}, numbers={**self.numbers, name: number}
        ).not_too_wide()

    def reverted(self, name: str) -> Self:
        """Return the document with the generation before active again, newer ones on their way back to it.

        Raises:
            NotFound: there is no such keyset.
            Invalid: there is no older generation.
        """
        keyset = self.keyset(name)
        older = [generation.number for generation in keyset.generations if generation.number < keyset.active]
        if not older:
            raise Invalid(f"{name} has no older generation to go back to")
        return self._with_keyset(name, msgspec.structs.replace(keyset, active=older[-1], reverting=True))

    def settled(self, name: str) -> Self:
        """Return the document in which nothing is under way with that keyset: all its records are where they belong."""
        places = {
            prefix: Assignment(each.keyset) if each.keyset == name else each for prefix, each in self.places.items()
        }
        keyset = msgspec.structs.replace(self.keyset(name), reverting=False)
        return self._with(keysets={**self.keysets, name: keyset}, places=places)

    def without_generation(self, generation: str) -> Self:
        """Return the document without that generation; whether records are under it is for the caller to prove.

        Raises:
            NotFound: there is no such generation.
            InUse: it is active, or a backup needs it.
        """
        name, _, number = generation.rpartition(".")
        keyset = self.keysets.get(name)
        kept = () if keyset is None else tuple(each for each in keyset.generations if str(each.number) != number)
        if keyset is None or len(kept) == len(keyset.generations):
            raise NotFound("there is no such generation of a keyset")
        if str(keyset.active) == number:
            raise InUse(
                f"generation {generation} is active: new records are written under it; rotate first", ("new records",)
            )
        if holders := [f"backup {label}" for label, each in self.backups.items() if generation in each.generations]:
            raise InUse(f"generation {generation} is needed to read a registered backup", tuple(holders))
        return self._with_keyset(name, msgspec.structs.replace(keyset, generations=kept))

    # Places

    def assigned(self, container: str, name: str) -> Self:
        """Return the document with the records of *container*, and of those in it, under keyset *name* from now on.

        Args:
            container: a container's full name, ``secrets/hosts/``.
            name: the keyset.

        Raises:
            NotFound: there is no such keyset.
            Invalid: *container* is not a container's name.
            InUse: too many old generations are not retired yet.
        """
        self.keyset(name)
        try:
            names.check(container)
        except InvalidName as error:
            raise Invalid(str(error), (("container", "is not a container's name"),)) from None
        if not container.startswith(SECRETS) or not names.is_container(container):
            raise Invalid("only containers of secrets are assigned", (("container", "is not a container of secrets"),))
        nearest = max((prefix for prefix in self.places if container.startswith(prefix)), key=len, default=None)
        used = Assignment(DEFAULT_KEYSET) if nearest is None else self.places[nearest]
        # What lies there stays under the keysets it was written under until it is re-encrypted.
        before = tuple(each for each in (used.keyset, *used.before) if each != name)
        return self._with(places={**self.places, container: Assignment(name, before)}).not_too_wide()

    # Backups, being halted, and a root key to come

    def with_backup(self, label: str, now: str) -> Self:
        """Return the document with a backup registered, that needs all generations of today.

        Raises:
            Invalid: the label is invalid.
            Exists: there is one of that label.
        """
        if not label.isprintable() or not 0 < len(label) <= 128:
            raise Invalid("a label is 1 to 128 printable characters", (("label", "is not a label"),))
        if label in self.backups:
            raise Exists("a backup of that label is registered")
        return self._with(backups={**self.backups, label: Backup(now, self.generations)})

    def without_backup(self, label: str) -> Self:
        """Return the document with that backup forgotten.

        Raises:
            NotFound: none of that label is registered.
        """
        if label not in self.backups:
            raise NotFound("no backup of that label is registered")
        return self._with(backups={each: of for each, of in self.backups.items() if each != label})

    def halt(self, keyset: str, now: str, reason: str) -> Self:
        """Return the document that says: no secret is written until a reversal of *keyset* is finished."""
        return self._with(halted=Halt(keyset, now, reason))

    def resumed(self) -> Self:
        """Return the document that says no such thing."""
        return self._with(halted=None)

    def left_as_it_is(self, name: str) -> Self:
        """Return the document in which a reversal of that keyset is over, although not all of it could be done.

        Raises:
            NotFound: there is no such keyset.
        """
        return self._with_keyset(name, msgspec.structs.replace(self.keyset(name), reverting=False)).resumed()

    def with_pending(self, pending: Pending | None) -> Self:
        """Return the document that says: this root key is prepared; None: none is."""
        return self._with(pending=pending)

    def with_index(self) -> Self:
        """Return the document that says: the index is complete."""
        return self._with(counted=True)

    def _check(self) -> None:
        """Raise ValueError if the document contradicts itself."""
        self.ring().wipe()
        if len(bytes.fromhex(self.keyring)) != (_NAME_SIZE if self.edition else 0) or self.edition < 0:
            raise ValueError("its edition does not fit its keyring's id")
        used = {DEFAULT_KEYSET, *(each for of in self.places.values() for each in (of.keyset, *of.before))}
        if not used <= self.keysets.keys():
            raise ValueError("a keyset is missing")
        for name, keyset in self.keysets.items():
            if not keyset.generations or self.numbers.get(name, 0) < max(each.number for each in keyset.generations):
                raise ValueError("a generation has a number that was never given")

    def not_too_wide(self) -> Self:
        """Return the document itself.

        Raises:
            InUse: too many old generations are not retired yet for a write to fit into a transaction.
        """
        ring = self.ring()
        ring.wipe()
        if ring.widest > MAX_GENERATIONS:
            raise InUse(
                f"a record could be under {ring.widest} generations, which is too many; "
                "re-encrypt and retire old ones first",
                tuple(
                    generation for generation in self.generations if generation not in self.active_generations.values()
                ),
            )
        return self

    def _with_keyset(self, name: str, keyset: Keyset) -> Self:
        return self._with(keysets={**self.keysets, name: keyset})

    def _with(self, **changes: object) -> Self:
        return msgspec.structs.replace(self, **changes)


class _Format(msgspec.Struct):
    format: int


def _generation(number: int, now: str, keys: int, random: Random) -> Generation:
    if not 0 < keys <= MAX_KEYS:
        raise Invalid(f"a generation has 1 to {MAX_KEYS} keys", (("keys", f"is not 1 to {MAX_KEYS}"),))
    return Generation(number, now, tuple(random(KEY_SIZE) for _ in range(keys)))


def _kids(keyset: str, generation: Generation) -> Sequence[str]:
    if len(generation.keys) == 1:
        return [f"{keyset}.{generation.number}"]
    return [f"{keyset}.{generation.number}.{n}" for n in range(1, len(generation.keys) + 1)]
