"""Work on a whole tree of secrets: it asks first, shows how far it is, and where it stops says how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strongroom.deploy.cli import show
from strongroom.deploy.cli.interruption import interruptible
from strongroom.deploy.cli.secret.listing import some_secrets

if TYPE_CHECKING:
    from strongroom.models.steps import Step


@dataclass(slots=True)
class Far:
    """How many secrets of a tree are done."""

    word: str  # moved, copied, removed
    total: int
    safe: str = ""  # what is certain wherever the work stops
    done: int = 0

    def __str__(self) -> str:
        told = f"{self.done:,} of {some_secrets(self.total)} {self.word}"
        return f"{told}; {self.safe}" if self.safe else told


@contextmanager
def shown(far: Far, doing: str, step: "Step") -> Iterator[Callable[[], None]]:
    """Show how far the work is; the block says so whenever one more secret is done.

    Raises:
        Interrupted: it was, and the text says how far it is.
        StrongroomError: what stopped it, which says the same; *step* goes on.
    """
    from strongroom.storage_service.errors import StrongroomError

    try:
        with interruptible(str(far), step) as stretch, show.progress(doing, far.total) as advance:

            def one_more() -> None:
                far.done += 1
                stretch.text = str(far)
                advance(1)

            yield one_more
    except StrongroomError as error:
        error.args = (f"{error}; {far}",)
        error.next = (*error.next, step)
        raise
