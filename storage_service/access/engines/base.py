"""What an engine is asked, and how it answers: the words that every kind of engine shares.

A subject is a principal's id (``user:ann``), an action a domain and a right (``secrets.read``), a resource a domain and
what is in it (``secrets:db/password``). The domain is the first segment of a record's name.
"""

from enum import StrEnum
from typing import Final, Protocol

from strongroom.models.access import Right
from strongroom.models.errors import StrongroomError

DEADLINE: Final = 0.25  # seconds within which an engine answers, whatever stands in its way
MAX_SAID: Final = 200  # characters of an answer that the log shows

_ALL: Final = "/"  # what is in a domain's own container; an empty id is none to every engine


class Engine(Protocol):
    """One that says whether a subject may do an action to a resource."""

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        """Return whether it may; a denial is an answer and raises nothing.

        Raises:
            EngineFailed: there is no answer within `DEADLINE`, or none that can be understood.
        """

    def close(self) -> None:
        """Let go of what is open."""


class EngineFailed(StrongroomError):
    """An engine did not say yes or no; *said* is what it said instead, for the log alone."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said


class Stance(StrEnum):
    """What an engine's answers count for."""

    MAY = "may-allow"  # yes is a yes; no and failure are silence
    MUST = "must-allow"  # yes is silence; no and failure deny


class Outcome(StrEnum):
    """What came of asking an engine."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"


def action_of(right: Right, name: str) -> str:
    """Return what an engine is told of *right* to *name*."""
    return f"{name.partition('/')[0]}.{right.value}"


def resource_of(name: str) -> str:
    """Return what an engine is told of the record or container *name*."""
    domain, _, inner = name.partition("/")
    return f"{domain}:{inner or _ALL}"
