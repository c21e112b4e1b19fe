"""What a source of records must do, and what one that can be scrubbed does besides.

The law in ``tests/laws/sources.py`` runs over every source of the table in ``strongroom.migration.sources``.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item, Record
from strongroom.models.secret import Secret


class Option(NamedTuple):
    """What may be said of a source besides its place: never a secret, but the file that holds one."""

    help: str
    many: bool = False  # may be said more than once
    required: bool = False


Options: TypeAlias = Mapping[str, Sequence[str]]


class Source(Protocol):
    """What is to be moved in, read where it lies. Reading changes nothing there.

    Every method but the properties raises `SourceUnavailable` when the source does not answer or cannot be read, and
    `SourceRefused` when it does not accept us; whatever is wrong with one item is that item's *fault* instead, so that
    one bad record never hides the rest.
    """

    @property
    def identity(self) -> str:
        """Which source this is: the same words for the same one, and no credential in them."""

    async def open(self, digest: Digest) -> None:
        """Connect, and check that this is a source of this kind; *digest* makes the marks of what has no revision.

        Raises:
            ConfigurationError: it is invalid, or an option contradicts it; the text says what to do.
        """

    async def close(self) -> None:
        """Let go of everything; a second call does nothing."""

    async def count(self) -> int | None:
        """Return how many items there are, if that is cheap to know; None: it is not."""

    def items(self) -> AsyncIterator[Item]:
        """Yield every item, each once, in an order that stays, holding a bounded part of them in memory.

        What comes or goes meanwhile may be missed; what was there all along is not.
        """

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the present marks of those of *ids* that exist; at most 1,000."""


@runtime_checkable
class Findable(Protocol):
    """The optional ability to look a record up by the name it will have, so that it can be read where it still lies."""

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return those of *names* that an item here becomes; at most 1,000. None: the item is there, and malformed."""


@dataclass(frozen=True, slots=True)
class Original:
    """An item exactly as it lies at the source: all that it takes to put it back.

    *content* is the source's own affair, and text, so that it can be sealed in the journal.
    """

    id: str
    mark: str
    content: Secret


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere that what was removed may remain: a file, a snapshot; or somewhere that cannot be looked into.

    *chunks* yields its bytes in order, in parts of at most 1 MiB; None: it cannot be reached from here. *advice* says
    what to do about it if secrets remain there, or if it cannot be reached.
    """

    name: str
    chunks: Callable[[], AsyncIterator[bytes]] | None
    advice: str


@runtime_checkable
class Scrubbable(Protocol):
    """The optional ability to have secrets removed, and put back.

    Errors are those of `Source`. A write whose fate is unknown is settled before the method returns, or raises.
    """

    scrub_batch: ClassVar[int]
    """How many items one call of `scrub` or `restore` takes at most."""

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return those of *ids* that exist, as they lie there."""

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Remove the secrets of each item, if it is still as its original; return for each whether that is so now.

        By compare-and-set where the source has one. False: it is not as its original and still holds secrets, and
        nothing was done to it. Of one that is scrubbed already: True.
        """

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put each item back as it was; return for each whether it is so now.

        False: it was changed since it was scrubbed, and nothing was done to it. Of one that is as it was: True.
        """

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return what of *original* must be found nowhere once it is scrubbed, as it lay in the source's files."""

    async def purge(self) -> Sequence[str]:
        """Make the source give up what was removed (compact, defragment, vacuum); return what was done, in words."""

    async def places(self) -> Sequence[Place]:
        """Return every place where removed secrets may remain, those that cannot be reached among them."""
