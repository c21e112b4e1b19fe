"""Secrets that are known to open, kept encrypted in memory until each is wanted."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from strongroom.storage_service.backends.base import Backend, Entry


class Closed(NamedTuple):
    """An entry whose value is not in memory in the clear until *reveal* is called; that it opens is known."""

    revision: int
    reveal: Callable[[], bytes]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return an entry that is open anyway."""
        return cls(entry.revision, lambda: entry.value)

    def open(self) -> Entry:
        """Return the entry.

        Raises:
            Locked: the key is gone that it was found to open with.
        """
        return Entry(self.reveal(), self.revision)


class Discreet(Backend, Protocol):
    """A backend of secrets, which can be had without all of them being in memory in the clear."""

    async def get_closed(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Closed]:
        """Return those of *names* that exist, as `get_many`, each found to open and none of them opened."""
