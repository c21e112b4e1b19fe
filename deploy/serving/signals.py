"""What processes do about signals beside gunicorn: readiness, none lost in a fork, and none in the middle of a line."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Final

SERVING: Final = signal.SIGRTMIN  # what a worker sends the process that forked it when it serves

ASK_FOR_THE_END: Final = frozenset(  # POSIX's, from outside
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGILL}
)
HELD_BACK: Final = ASK_FOR_THE_END | {signal.SIGCHLD}

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what asks for the end, and the ends of children, for who waits for them in its own time.

    What was ignored from the beginning, as ``nohup`` has it for SIGHUP, and a shell for SIGINT and SIGQUIT of what it
    starts in the background, stays ignored: not held back, it is nothing to be waited for either.
    What came and was not waited for has asked for an end that is here: it is dropped when this is left.
    """
    ignored = {number for number in ASK_FOR_THE_END if signal.getsignal(number) is signal.SIG_IGN}
    heeded = HELD_BACK - ignored
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    try:
        yield
    finally:
        if not before >= heeded:  # the outermost
            while signal.sigtimedwait(HELD_BACK, 0) is not None:
                pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Take signals again, in a forked child of who holds them back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def asked_for_the_end() -> signal.Signals | None:
    """Return what asks for the end of what is held back, and stays so; None where nothing does."""
    return next((signal.Signals(number) for number in sorted(ASK_FOR_THE_END & signal.sigpending())), None)


def tell_systemd_when_serving() -> None:
    """Tell systemd that the service is ready (sd_notify(3)) when the first worker says that it serves.

    gunicorn's master would say so itself as soon as its sockets listen, and a service whose workers cannot start would
    have been called up; so the name of the socket is taken out of the environment before it runs.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")

    def serving(_: int, __: FrameType | None) -> None:
        signal.signal(SERVING, signal.SIG_IGN)
        if address:
            notify(address, "READY=1")

    signal.signal(SERVING, serving)


def notify(address: str, state: str) -> None:
    """Send *state* to the socket of systemd's that *address* names; one that is gone is nobody to tell."""
    place = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
        there.connect(place)
        there.sendall(state.encode())


def lose_no_signal_in_a_fork() -> None:
    """Let a worker that is told to end before it can listen to that end.

    Between its fork and its own handlers a worker has its parent's, which note the signal for a loop that it does not
    have. So signals are held back over the fork, and what came meanwhile takes its default way: the worker ends.
    """

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def release_in_child() -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=release_in_child)
