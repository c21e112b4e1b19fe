"""What a long command says when it is interrupted: how far it came, that this is safe, and the command that goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from strongroom.models.steps import Step


class Interrupted(click.Abort):
    """Somebody interrupted a command that says what is done, and what goes on; *next* is the latter."""

    def __init__(self, text: str, *following: "Step") -> None:
        super().__init__(text)
        self.next = following


class Stretch:
    """A part of a long command. *done* counts what the part has done; *text* may have a ``{done}`` in it."""

    def __init__(self, text: str, *following: "Step") -> None:
        self.done = 0
        self.text = text
        self.following = following

    def counting(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return what counts, and tells *advance*."""

        def counted(more: int) -> None:
            self.done += more
            advance(more)

        return counted


@contextmanager
def interruptible(text: str, *following: "Step") -> Iterator[Stretch]:
    """Let Ctrl-C end the block with *text* and the steps that go on; the block may say others while it works.

    Raises:
        Interrupted: it was interrupted.
    """
    stretch = Stretch(text, *following)
    try:
        yield stretch
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error, Interrupted):
            raise
        said = stretch.text.format(done=f"{stretch.done:,}")
        raise Interrupted(f"interrupted: {said}", *stretch.following) from None
