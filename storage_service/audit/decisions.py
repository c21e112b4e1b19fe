"""The audit log read back: the decisions of rules that are on record, to be made again, and those of one request.

The newest file is read first, then those that log rotation put beside it, ``audit.log.1`` or ``audit.log-20261130``,
also where they end in ``.gz``, as far back as is asked for. It ends at a number of seconds and of lines, and says then
that it is not all. Lines that are cut off or say nothing of rules are passed over.
"""

import contextlib
import gzip
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import msgspec

from strongroom.models.access import Right
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.explain import Recorded

MAX_LINE: Final = 64 * 1024  # bytes; ours are shorter
MAX_FOUND: Final = 20  # lines of one request
MAX_LINES: Final = 5_000_000
SECONDS: Final = 6.0  # of one reading: the proxy waits for ten
OWN_SECONDS: Final = 1.0  # of one for who sees his own alone, and asks about what he was refused just now
_SKEW: Final = 10.0  # seconds by which a line may stand before an earlier one: workers write for themselves
_YIELD: Final = 512  # lines, after which others get their turn
_RIGHTS: Final = frozenset(map(str, Right))
_MARK: Final = b'"decided":{'
_TIME: Final = re.compile(rb'\{"time":"([0-9T:.-]{19,26})Z"')


class Decided(msgspec.Struct):
    """What a line says of how rules decided."""

    rights: list[str] = []
    groups: list[str] = []
    credential: str | None = None
    rules: list[str] = []
    verdict: bool | None = None
    revision: int = 0
    others: bool | None = None


class Line(msgspec.Struct, rename={"from_": "from"}):
    """A line, as far as it is of interest here."""

    time: str
    request: str
    principal: str
    action: str
    name: str
    decision: str
    reason: str | None = None
    from_: str | None = None
    count: int = 1
    decided: Decided | None = None


@dataclass(slots=True)
class Reading:
    """How far the log was read."""

    lines: int = 0
    complete: bool = True
    started: float = field(default_factory=time.monotonic)
    seconds: float = math.inf  # that it may take, if it is less than others may


class Decisions:
    """An audit log, and what was rotated away from it. Its methods block: they are for threads.

    Args:
        path: of the log.
        seconds: that one reading may take.
        lines: that it may take in.
    """

    def __init__(self, path: Path, *, seconds: float = SECONDS, lines: int = MAX_LINES) -> None:
        self._path = path
        self._seconds = seconds
        self._lines = lines

    def since(self, moment: datetime, reading: Reading) -> Iterator[Recorded]:
        """Yield the decisions since *moment* that can be made again; *reading* tells how far it came."""
        decode = msgspec.json.Decoder(Line).decode
        for text in self._read(moment, reading):
            if _MARK not in text:
                continue
            with contextlib.suppress(*UNREADABLE):
                recorded = _recorded(decode(text))
                if recorded is not None and recorded.moment >= moment:
                    yield recorded

    def of_request(self, request: str, reading: Reading) -> list[Line]:
        """Return the lines of the request of that id that say what was decided, the newest file's."""
        wanted = b'"request":"%b"' % request.encode()
        decode = msgspec.json.Decoder(Line).decode
        found: list[Line] = []
        for text in self._read(None, reading, lambda: bool(found)):
            if wanted in text and _MARK in text:
                with contextlib.suppress(*UNREADABLE):
                    line = decode(text)
                    if line.request == request and line.decided is not None:
                        found.append(line)
            if len(found) >= MAX_FOUND:
                break
        return found

    def _read(
        self, since: datetime | None, reading: Reading, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[bytes]:
        """Yield lines, file by file, the newest first; *enough* says between files that no older one is wanted."""
        seen: set[tuple[int, int]] = set()
        for path, can_be_read in _files(self._path, None if since is None else since.timestamp() - _SKEW):
            if enough():
                return
            try:
                if not can_be_read:
                    raise OSError
                with _opened(path) as (file, stat):
                    if (stat.st_dev, stat.st_ino) in seen:  # the log itself, renamed since it was opened
                        continue
                    seen.add((stat.st_dev, stat.st_ino))
                    if since is not None and path.suffix != ".gz":
                        _seek(file, stat.st_size, since.timestamp() - _SKEW)
                    while text := file.readline(MAX_LINE):
                        reading.lines += 1
                        if reading.lines % _YIELD == 0:
                            time.sleep(0)  # gives requests the interpreter: this thread reads a long log
                            if (
                                time.monotonic() - reading.started > min(self._seconds, reading.seconds)
                                or reading.lines > self._lines
                            ):
                                reading.complete = False
                                return
                        yield text
            except (OSError, EOFError):  # gone, or damaged, or packed by what is not known here
                reading.complete = reading.complete and path == self._path and not path.exists()


def _recorded(line: Line) -> Recorded | None:
    """Return the decision that *line* tells of; None where it was not one of rules and those beside them alone."""
    said = line.decided
    moment = _parsed(line.time)
    if said is None or moment is None or not said.rights or not _RIGHTS.issuperset(said.rights):
        return None
    allowed = False not in (said.verdict, said.others) and True in (said.verdict, said.others)
    if line.decision not in ("allowed", "denied") or allowed != (line.decision == "allowed"):
        return None
    return Recorded(
        line.principal,
        frozenset(said.groups),
        line.from_,
        said.credential,
        tuple(Right(right) for right in said.rights),
        line.name,
        moment,
        said.verdict,
        said.others,
    )


def _files(path: Path, since: float | None) -> Iterator[tuple[Path, bool]]:
    """Yield the log and what was rotated away from it, the newest first, and whether each can be read here."""
    yield path, True
    form = re.compile(re.escape(path.name) + r"[.-][0-9][0-9-]{0,31}(\.[a-z0-9]{1,8})?", re.ASCII)
    found = []
    with contextlib.suppress(OSError):
        for each in path.parent.iterdir():
            named = form.fullmatch(each.name)
            if named is not None:
                with contextlib.suppress(OSError):
                    found.append((each.stat().st_mtime, each, named[1] in (None, ".gz")))
    for written, each, can_be_read in sorted(found, reverse=True):
        if since is None or written >= since:
            yield each, can_be_read


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as plain:
        stat = os.fstat(plain.fileno())
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=plain) as packed:
                yield packed, stat  # type: ignore[misc]
        else:
            yield plain, stat


def _seek(file: IO[bytes], size: int, since: float) -> None:
    """Go to a line before the first one at *since*, of a file whose lines stand in the order of their times."""
    first, behind = 0, size
    while behind - first > MAX_LINE:
        middle = (first + behind) // 2
        file.seek(middle)
        file.readline(MAX_LINE)
        begun = file.tell()
        moment = _moment(file.readline(MAX_LINE))
        if moment is not None and moment.timestamp() < since:
            first = begun
        else:
            behind = middle
    file.seek(first)


def _moment(text: bytes) -> datetime | None:
    found = _TIME.match(text)
    return None if found is None else _parsed(found[1].decode())


def _parsed(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC)
