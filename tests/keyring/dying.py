"""Being killed at an operation on files: before each that Python reports to its audit hooks (PEP 578)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from strongroom.storage_service.backends.faulty import Killed

_CHANGES: Final = frozenset({"open", "os.link", "os.rename", "os.remove", "os.chmod", "fcntl.flock"})


class Death:
    """The death of a process at operation number *at*, from 0, on the files in *directory*; None: it only counts.

    The dead do nothing more: every later operation there raises `Killed`, too. What is done as an exception passes,
    without touching files, the dead do in the tests alone.
    """

    def __init__(self, directory: Path, at: int | None) -> None:
        self.operations: list[str] = []
        self._directory = str(directory)
        self._at = at
        self._dead = False

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Be told of an operation before it is done."""
        if event not in _CHANGES or not (event == "fcntl.flock" or self._is_here(arguments)):
            return
        self._dead = self._dead or len(self.operations) == self._at
        self.operations.append(event)
        if self._dead:
            raise Killed

    def _is_here(self, arguments: tuple[object, ...]) -> bool:
        return any(isinstance(each, (str, Path)) and str(each).startswith(self._directory) for each in arguments)


_deaths: Final[list[Death]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    for death in _deaths:
        death.hear(event, arguments)


@contextmanager
def killed_at(directory: Path, at: int | None = None) -> Iterator[Death]:
    """Let every process that works on the files of *directory* within the block die at operation number *at*."""
    if not hasattr(sys, "_dying_hook"):
        sys._dying_hook = True  # type: ignore[attr-defined]  # a hook cannot be removed, so there is one
        sys.addaudithook(_hook)
    death = Death(directory, at)
    _deaths.append(death)
    try:
        yield death
    finally:
        _deaths.remove(death)
