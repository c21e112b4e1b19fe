"""What a source asks of an etcd, whichever of its two interfaces it speaks: keys, values, revisions."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from strongroom.migration.sources.base import Place
from strongroom.migration.sources.private_file import read_private
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError

T = TypeVar("T")
R = TypeVar("R")

MAINTENANCE: Final = 600.0  # seconds for what etcd does to all that it holds


@dataclass(frozen=True, slots=True)
class Held:
    """What lies under a key: its bytes, at which revision they were written, and how long they live.

    A byte of a key that is no UTF-8 stands for itself as a surrogate (PEP 383). *life* is a lease in the v3 interface,
    and in v2 the seconds that are left; 0: it stays. Nothing here shows the value.
    """

    key: str
    value: bytes = field(repr=False)
    revision: int
    life: int = 0


class Keys(Protocol):
    """The keys below one prefix of an etcd; every method raises `SourceUnavailable` and `SourceRefused`."""

    prefix: str
    """What all keys begin with; ends in a slash."""
    at_once: int
    """How many questions are worth asking at the same time."""
    nested: bool
    """Whether etcd's files have values inside texts of JSON, with the escapes of those."""

    async def open(self) -> None:
        """Connect, log in, and see that keys can be read.

        Raises:
            ConfigurationError: what answers does not speak this interface, or a file of ours cannot be used.
        """

    async def close(self) -> None:
        """Disconnect; a second call does nothing."""

    async def count(self) -> int:
        """Return how many keys there are."""

    def pages(self) -> AsyncGenerator[Sequence[Held], None]:
        """Yield all keys, in an order that stays, some at a time."""

    async def get_many(self, keys: Sequence[str], *, agreed: bool = False) -> Mapping[str, Held]:
        """Return those of *keys* that exist; with *agreed* nothing older than this moment, for a change hangs on it."""

    async def revisions(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the revisions of those of *keys* that exist."""

    async def swap(self, held: Held, value: bytes) -> Held | None:
        """Write *value* if the key is still as *held* says, revision and value, and return what is there now.

        None: nothing is. Both are compared, for revisions begin again where an etcd was made anew.

        It is known what is there when this returns: where an answer is lost, the same is sent again, which says
        whether the first was applied, and keeps it from being applied later. Somebody else's like value is as good.
        """

    async def purge(self) -> Sequence[str]:
        """Let go of earlier values, as far as this interface can; return what was done, in words."""

    async def places(self) -> Sequence[Place]:
        """Return every place where earlier values may lie."""


def read_password(path: Path) -> Secret:
    """Return the password in the first line of a file. It blocks on the disk.

    Raises:
        ConfigurationError: it cannot be read, is open to others, or empty.
    """
    try:
        password = read_private(path).decode().strip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password:
        raise ConfigurationError(f"{path}: one line with etcd's password is expected")
    return Secret(password)
