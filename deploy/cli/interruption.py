"""What a long command says when it is interrupted: how far it came, that this is safe, and the command that goes on.

An end that others ask for, by SIGTERM or by SIGHUP of a terminal that is closed, is an interruption as Ctrl-C is.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from strongroom.models.steps import Option, Step, Verb

CTRL_C: Final = 128 + signal.SIGINT  # the exit code, as shells count it
ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(click.Abort):
    """Somebody interrupted a command that says what is done, and what goes on; *next* is the latter.

    *code* is the exit code, which tells the signal.
    """

    def __init__(self, text: str, *following: "Step", code: int = CTRL_C) -> None:
        super().__init__(text)
        self.next = following
        self.code = code


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
    """Let Ctrl-C and its like end the block with *text* and the steps that go on; it may say others while it works.

    Raises:
        Interrupted: it was interrupted.
    """
    stretch = Stretch(text, *following)
    with _ended_like_ctrl_c() as came:
        try:
            yield stretch
        except (KeyboardInterrupt, click.Abort) as error:
            if isinstance(error, Interrupted):
                raise
            said = stretch.text.format(done=f"{stretch.done:,}")
            code = 128 + came[0] if came else CTRL_C
            raise Interrupted(f"interrupted: {said}", *stretch.following, code=code) from None


def said_again(reason: str, verb: "Verb", file: str, places: Mapping[str, str | Path | None], **flags: bool) -> "Step":
    """Return the step that does the same with the same *file*; of *places* and *flags* those that were said.

    Standard input, where keys were read from, is not named again: whoever is there is asked.
    """
    from strongroom.models.steps import Step

    said: dict[str, Option] = {
        name: str(place) for name, place in places.items() if place is not None and str(place) != "-"
    }
    return Step(reason, verb, {"file": file, **said, **flags})


def heeded() -> list[signal.Signals]:
    """Return the signals that ask for the end, but for those that are ignored: that is how nohup keeps a command."""
    return [each for each in ENDINGS if signal.getsignal(each) is not signal.SIG_IGN]


@contextmanager
def _ended_like_ctrl_c() -> Iterator[list[int]]:
    """Let the first signal that asks for the end do what Ctrl-C does; give the list in which it is noted."""
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:  # as a session ends with two: what the first has begun goes on to its end
            return
        ctrl_c = signal.getsignal(signal.SIGINT)
        if callable(ctrl_c):
            ctrl_c(signal.SIGINT, frame)  # an event loop's own cancels what the loop is at
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield came
        return
    before = {number: signal.signal(number, end) for number in heeded()}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
