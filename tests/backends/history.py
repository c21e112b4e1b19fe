"""A history of reads and writes of single keys, and whether one store that does one thing at a time could have made it.

Every write has a revision and every read tells the one it saw, which orders them. What is left to check is that this
order agrees with the one in which things were seen to happen: what had ended before something else began is not after
it. That, for each key, is what linearizable means.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple


class Act(NamedTuple):
    """A read or an acknowledged write: *began* and *ended* are places in the order of all that was seen."""

    key: str
    wrote: bool
    revision: int  # written, or seen (0: the key was not there)
    value: bytes
    began: int
    ended: int


@dataclass
class History:
    """What happened, as its callers saw it."""

    acts: list[Act] = field(default_factory=list)
    clock: Iterator[int] = field(default_factory=count)

    def faults(self) -> list[str]:
        """Return what no store that does one thing at a time could have answered."""
        keys = {act.key for act in self.acts}
        return [fault for key in sorted(keys) for fault in _faults([act for act in self.acts if act.key == key])]


def _faults(acts: Sequence[Act]) -> Iterator[str]:
    """Yield the faults of one key's history, in one pass over beginnings and ends."""
    written = {0: b""} | {act.revision: act.value for act in acts if act.wrote}
    if len(written) <= sum(act.wrote for act in acts):
        yield "two writes have one revision"
    steps = sorted([(act.began, False, act) for act in acts] + [(act.ended, True, act) for act in acts])
    newest = 0  # revision of all that has ended
    floor: dict[Act, int] = {}  # what that was when an act began
    for _, ends, act in steps:
        if not ends:
            floor[act] = newest
            continue
        if written.get(act.revision) != act.value:
            yield f"{act} is of a write that nobody made"
        if act.revision < floor[act] + act.wrote:
            yield f"{act} began when revision {floor[act]} was there"
        newest = max(newest, act.revision)
