"""What can be wrong with a record; nothing here knows of HTTP or stores."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from strongroom.models.steps import Step


class StrongroomError(Exception):
    """Base of all errors of ours; never raised itself. *next* is what can be done about it."""

    next: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """What is wrong, and nothing of where: what those are told who know that, or are not to know it."""
        return super().__str__()

    def advising(self, *steps: Step) -> Self:
        """Return the error with *steps* as what can be done about it."""
        self.next = steps
        return self


class ModelError(StrongroomError):
    """Base of all errors of this package; never raised itself."""


class InvalidName(ModelError, ValueError):
    """A string is not a name of the grammar in ``strongroom.models.names``."""


class Fault(NamedTuple):
    """One thing wrong with one field. The reason never contains the value."""

    field: str
    reason: str


class ValidationError(ModelError, ValueError):
    """A record's fields break its model's rules; *faults* says each field and its reason, never a value."""

    def __init__(self, model: str, faults: Sequence[Fault]) -> None:
        self.model = model
        self.faults = tuple(faults)
        super().__init__(f"{model} is invalid: " + "; ".join(f"{f.field} {f.reason}" for f in self.faults))
