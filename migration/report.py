"""A verb's report on its work: one shape for people and programs, with no place for a secret."""

from typing import Final

import msgspec

from strongroom.models.steps import Step

SCHEMA: Final = "strongroom.migrate/2"


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Something that an operator must know of one item."""

    kind: str  # "bad", "conflict", "duplicate", "changed", "missing", "differs", "refused", "note", …
    item: str
    why: str
    name: str = ""  # of the record, where it is one record's
    next: tuple[Step, ...] = ()  # what can be done about it, where a verb of ours does it
    mark: str = ""  # of the item as it was read, where that counts: it changes whenever the item does


class Report(msgspec.Struct, kw_only=True):
    """How a verb ended."""

    verb: str
    run: str
    kind: str  # of the source
    source: str  # its identity
    started: str  # RFC 3339, UTC
    finished: str = ""
    complete: bool = False
    counts: dict[str, int] = {}
    problems: list[Problem] = []
    facts: dict[str, str] = {}  # in words, by what they are about: sizes, times, what was done
    next: list[Step] = []  # what to do now: one of these
    sum: str = ""
    schema: str = SCHEMA

    def count(self, what: str, more: int = 1) -> None:
        """Add to one of the counts."""
        self.counts[what] = self.counts.get(what, 0) + more

    def tell(
        self, kind: str, item: str, why: str, name: str = "", *, next_: tuple[Step, ...] = (), mark: str = ""
    ) -> None:
        """Add a problem, and count it."""
        self.problems.append(Problem(kind=kind, item=item, why=why, name=name, next=next_, mark=mark))
        self.count(kind)
