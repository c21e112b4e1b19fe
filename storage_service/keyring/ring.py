"""The keys of the running service, as one value: which of them is used for what.

    default.1   default.2   default.3 (active)        a keyset "default" in three generations
    access.1.1  access.1.2  access.1.3 (active)       a keyset whose generation has three keys

New values are encrypted under the active generation of a keyset; the others go on decrypting what was written under
them. A generation may have several keys, of which each write takes one at random. A key id (*kid*) means one key for
ever. A key opens what lies in the places of its keyset, now or from before, and nothing else: else whoever came by one
key could write every record (docs/adr/0024). Nothing here does I/O; who persists a key before it is used is
`strongroom.storage_service.keyring.stored`.
"""

import functools
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, Protocol

from strongroom.storage_service.jose.jwe import Misplaced
from strongroom.storage_service.jose.key import Key

DEFAULT_KEYSET: Final = "default"
_NAMES: Final = 4096  # whose places a ring remembers

_KEYSET: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_KID: Final = re.compile(
    rf"(?P<generation>(?P<keyset>{_KEYSET.pattern})\.(?P<number>[1-9][0-9]{{0,8}}))(?:\.[1-9][0-9]{{0,2}})?", re.ASCII
)


def is_kid(text: str) -> bool:
    """Whether *text* has the form of a data key's id."""
    return _KID.fullmatch(text) is not None


def is_keyset(text: str) -> bool:
    """Whether *text* can be the name of a keyset."""
    return _KEYSET.fullmatch(text) is not None


def generation_of(kid: str) -> str | None:
    """Return the generation of the data key *kid*, ``default.3`` for ``default.3.2``; None if it is no such id."""
    match = _KID.fullmatch(kid)
    return None if match is None else match["generation"]


class DataKey(Key):
    """A key that values are encrypted under, of generation *number* of keyset *keyset*.

    Raises:
        ValueError: the kid is not ``<keyset>.<number>`` or ``<keyset>.<number>.<n>``, or the key is not 64 bytes.
    """

    __slots__ = ("_generation", "_keyset", "_number")

    def __init__(self, kid: str, octets: bytes | bytearray) -> None:
        match = _KID.fullmatch(kid)
        if match is None:
            raise ValueError("a data key's id is <keyset>.<generation>, the generation a number from 1")
        super().__init__(kid, octets)
        self._keyset = match["keyset"]
        self._number = int(match["number"])
        self._generation = match["generation"]

    @property
    def keyset(self) -> str:
        """The keyset this key is of."""
        return self._keyset

    @property
    def number(self) -> int:
        """The number of its generation in the keyset, from 1."""
        return self._number

    @property
    def generation(self) -> str:
        """The generation it is a key of, ``<keyset>.<number>``: what is rotated, counted and retired."""
        return self._generation


class Place(NamedTuple):
    """The keysets for the records under one prefix: *keyset* for what is written, *before* for what still lies there.

    The nearest prefix holds; where none does, it is the keyset `DEFAULT_KEYSET`.
    """

    keyset: str
    before: tuple[str, ...] = ()


class Choice(NamedTuple):
    """What one write needs to know: the *key*, and the *others* of the generations that the record may be under now."""

    key: DataKey
    others: tuple[str, ...]


class _Here(dict[str, DataKey]):
    """The keys, by their ids, that open what lies in one place; asked for another of the ring, it says so."""

    __slots__ = ("_known",)

    def __init__(self, keys: Mapping[str, DataKey], known: frozenset[str]) -> None:
        super().__init__(keys)
        self._known = known

    def __missing__(self, kid: str | None) -> NoReturn:
        raise Misplaced if kid in self._known else KeyError


def _here(places: Sequence[tuple[str, _Here]], name: str) -> _Here:
    for prefix, here in places:
        if name.startswith(prefix):
            return here
    raise AssertionError  # the empty prefix is among them


class Ring:
    """All data keys the service holds, as one value that does not change, but for being wiped.

    Args:
        keys: the keys; those of one generation are its keys.
        active: keyset to the number of its active generation; by default the highest.
        places: prefix of names to the keysets used there.
        revision: the revision of the keyring document that this is, ABSENT for none.
        halted: whether nothing may be encrypted for now.

    Raises:
        ValueError: two different keys with one kid, or *active* names a key that is not here.
    """

    __slots__ = ("_active", "_generations", "_keys", "_places", "at", "halted", "revision")

    at: Callable[[str], Mapping[str, DataKey]]
    """The keys, by their ids, that open the record of a name; of others it raises `Misplaced` or KeyError."""

    def __init__(
        self,
        keys: Iterable[DataKey] = (),
        active: Mapping[str, int] | None = None,
        *,
        places: Mapping[str, Place] | None = None,
        revision: int = 0,
        halted: bool = False,
    ) -> None:
        self._keys: dict[str, DataKey] = {}
        generations: dict[str, dict[int, list[DataKey]]] = {}
        for key in sorted(keys, key=lambda key: (key.keyset, key.number)):
            known = self._keys.setdefault(key.kid, key)
            if known is key:
                generations.setdefault(key.keyset, {}).setdefault(key.number, []).append(key)
            elif known != key:
                raise ValueError(f"{key.kid} is another key already; a kid means one key for ever")
        self._active: dict[str, tuple[DataKey, ...]] = {}
        self._generations = {keyset: tuple(f"{keyset}.{number}" for number in of) for keyset, of in generations.items()}
        for keyset, of in generations.items():
            number = (active or {}).get(keyset, max(of))
            if number not in of:
                raise ValueError(f"the ring has no key {keyset}.{number}")
            self._active[keyset] = tuple(of[number])
        if missing := (active or {}).keys() - generations.keys():
            raise ValueError(f"the ring has no keyset {min(missing)}")
        # The longest prefix first, for the nearest holds; the empty one last, for everything has it.
        said = {"": Place(DEFAULT_KEYSET), **(places or {})}
        self._places = tuple(
            (
                prefix,
                place,
                tuple(v for keyset in (place.keyset, *place.before) for v in self._generations.get(keyset, ())),
            )
            for prefix, place in sorted(said.items(), key=lambda item: -len(item[0]))
        )
        here = tuple(
            (
                prefix,
                _Here({kid: key for kid, key in self._keys.items() if key.generation in of}, frozenset(self._keys)),
            )
            for prefix, _, of in self._places
        )
        # PERF: for every value that is opened. Of the places alone: a cache that held the ring would be a cycle, and
        # its keys would stay in memory when the ring is let go of.
        self.at = functools.lru_cache(_NAMES)(functools.partial(_here, here))
        self.revision: Final = revision
        self.halted: Final = halted

    @property
    def everywhere(self) -> Mapping[str, DataKey]:
        """All keys by their ids, wherever what they open lies: for who looks what a store holds, and where."""
        return MappingProxyType(self._keys)

    def choose(self, name: str) -> Choice:
        """Return the key to encrypt the record *name* under, picked at random from the active generation of its keyset.

        Raises:
            LookupError: the ring has no such keyset.
        """
        place, generations = self._place(name)
        key = self.active(place.keyset)
        if len(generations) == 1:  # PERF: nearly always
            return Choice(key, ())
        return Choice(key, tuple(generation for generation in generations if generation != key.generation))

    def keyset_of(self, name: str) -> str:
        """Return the keyset for the record *name*."""
        return self._place(name)[0].keyset

    def generations_of(self, name: str) -> tuple[str, ...]:
        """Return every generation that the record *name* may be under."""
        return self._place(name)[1]

    def active(self, keyset: str = DEFAULT_KEYSET) -> DataKey:
        """Return a key of the active generation of *keyset*.

        Raises:
            LookupError: the ring has no such keyset.
        """
        try:
            keys = self._active[keyset]
        except KeyError:
            raise LookupError(f"the ring has no keyset {keyset}") from None
        return keys[0] if len(keys) == 1 else secrets.choice(keys)

    def newest(self, keyset: str) -> tuple[DataKey, ...]:
        """Return the first key of each generation of *keyset*, the active one first and none that came after it.

        They are for what is signed and not stored: () where there is no such keyset, yet.
        """
        active = self._active.get(keyset)
        if active is None:
            return ()
        first: dict[int, DataKey] = {}
        for key in self._keys.values():
            if key.keyset == keyset and key.number <= active[0].number:
                first.setdefault(key.number, key)
        return tuple(first[number] for number in sorted(first, reverse=True))

    @property
    def widest(self) -> int:
        """How many generations a record may be under, at most."""
        return max(len(generations) for _, _, generations in self._places)

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of all keys, keyset by keyset, oldest first."""
        return tuple(self._keys)

    @property
    def generations(self) -> tuple[str, ...]:
        """All generations, keyset by keyset, oldest first."""
        return tuple(generation for generations in self._generations.values() for generation in generations)

    @property
    def active_generations(self) -> Mapping[str, str]:
        """Keyset to its active generation."""
        return {keyset: keys[0].generation for keyset, keys in self._active.items()}

    @property
    def places(self) -> Mapping[str, Place]:
        """Prefix of names to the keysets used there."""
        return {prefix: place for prefix, place, _ in self._places}

    def wipe(self) -> None:
        """Wipe every key; whoever still uses the ring gets `Locked`."""
        for key in self._keys.values():
            key.wipe()

    def _place(self, name: str) -> tuple[Place, tuple[str, ...]]:
        for prefix, place, generations in self._places:
            if name.startswith(prefix):
                return place, generations
        raise AssertionError  # the empty prefix is among them

    def __repr__(self) -> str:
        active = set(self.active_generations.values())
        return f"<Ring {' '.join(kid + '*' * (key.generation in active) for kid, key in self._keys.items())}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ring is not pickled")


class Keys(Protocol):
    """Where whoever encrypts or decrypts has the ring from."""

    @property
    def current(self) -> Ring | None:
        """The ring to use now; None: `sync` has to be asked."""

    async def sync(self) -> Ring:
        """Return the ring to use now.

        Raises:
            Locked: there is none.
            Unavailable: the store with the keyring does not answer.
        """

    async def refresh(self, seen: Ring) -> Ring:
        """Return the ring that took the place of *seen*, or *seen* if none did; raises what `sync` does."""
