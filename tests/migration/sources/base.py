"""What a test's estate is: a real system of some kind, made for one test, that a source reads and a test changes.

Each module beside this one makes estates of one kind, by a function of its own or several:

    @contextmanager
    def estate(directory: Path) -> Iterator[Estate]: ...

The law in ``tests/laws/sources.py`` runs over all of them. Methods block; they are called from the main thread, one at
a time and with no event loop running, so that a system's process may be tied to the thread that started it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Source


class Located(Protocol):
    """Where an estate lies: what its source is told."""

    @property
    def kind(self) -> str:
        """The kind of its source in the table of sources."""

    @property
    def place(self) -> str:
        """The place of its source."""

    @property
    def options(self) -> Mapping[str, Sequence[str]]:
        """The options of its source."""


class Estate(Located, Protocol):
    """An estate as it lies where it lies; empty at first, as far as such a system can be."""

    def put(self, number: int) -> str:
        """Make the valid item *number*, or change it, with a new secret text found nowhere else; return its id."""

    def break_one(self) -> str:
        """Put a malformed item in; return its id."""

    def change(self, key: str, /) -> None:
        """Change the item of that id behind the source's back, into another valid one."""

    def secret_of(self, number: int) -> str:
        """Return the secret text that `put` used last for *number*, as it stands in the record that it becomes."""

    def raw(self) -> Iterator[bytes]:
        """Yield the bytes of every file that it lies in, where there are any; they are the same if it is."""


@runtime_checkable
class Stoppable(Protocol):
    """An estate whose system is a process."""

    def stop(self) -> None:
        """End the process: nobody answers at the place any more."""

    def start(self) -> None:
        """Start it again, as it was."""


@runtime_checkable
class Spoken(Protocol):
    """An estate that takes any text for a secret that its system can hold."""

    def put_secret(self, number: int, text: str) -> str | None:
        """Make the item *number* with *text* as its secret and return its id; None: the system cannot hold that."""


@runtime_checkable
class Filled(Protocol):
    """An estate that takes many items faster than one by one."""

    def put_many(self, numbers: Sequence[int]) -> Sequence[str]:
        """Do what `put` does for each of *numbers*; return their ids."""


@runtime_checkable
class Sourced(Protocol):
    """An estate whose source stands in no table, and is at hand."""

    def source(self) -> Source:
        """Return a new source of this estate, unopened."""


Maker: TypeAlias = Callable[[Path], AbstractContextManager[Estate]]
"""Gives an estate of its own in a new directory, and clears it away."""


def source_of(estate: Located) -> Source:
    """Return a new source of *estate*, unopened, as the command would make it."""
    return estate.source() if isinstance(estate, Sourced) else open_source(estate.kind, estate.place, estate.options)
