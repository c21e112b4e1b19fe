"""What happens while tests are collected: no program is within reach, and nothing outside this process is touched."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

OUTSIDE: Final = frozenset(
    {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.system", "os.exec", "socket.bind", "socket.connect"}
)
TOUCHED: Final[list[str]] = []
"""What collection started or connected to."""

_watching = False


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in OUTSIDE:
        TOUCHED.append(f"{event}: {arguments!r}")


sys.addaudithook(_see)


@contextmanager
def watched() -> Iterator[None]:
    """Keep programs out of reach for the block, and note what it touches."""
    global _watching  # noqa: PLW0603  # an audit hook is for good: it can be told to look away, not be removed
    path, _watching = os.environ.pop("PATH", None), True
    try:
        yield
    finally:
        _watching = False
        if path is not None:
            os.environ["PATH"] = path
