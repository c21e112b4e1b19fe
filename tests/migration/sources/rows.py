"""What estates that are one file of rows share: rows are put in, changed and counted, and the file replaced whole."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

R = TypeVar("R")


class RowEstate(Generic[R]):
    """One file; *R* is what a row is in a test's hands."""

    kind: ClassVar[str]
    row: ClassVar[str]
    header: ClassVar[int]  # rows above the first item
    options: Mapping[str, Sequence[str]]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)
        self.options = {}
        self._at: dict[int, int] = {}
        self._secrets: dict[int, str] = {}
        self._serial = count()

    @abstractmethod
    def rows(self) -> list[R]:
        """Return the rows below the header, as they lie there."""

    @abstractmethod
    def text(self, rows: Sequence[R]) -> bytes:
        """Return the file that holds *rows*."""

    @abstractmethod
    def make(self, number: int, secret: str | None) -> tuple[R, str]:
        """Return a row with *secret* or one of its own, and the secret as it is in the record."""

    @abstractmethod
    def malformed(self) -> R:
        """Return a row that is none."""

    @abstractmethod
    def changed(self, row: R) -> R:
        """Return another row in the place of *row*."""

    def put(self, number: int) -> str:
        return self.put_many([number])[0]

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        return self._put([(number, None) for number in numbers])

    def put_secret(self, number: int, text: str) -> str | None:
        return self._put([(number, text)])[0]

    def _put(self, wanted: Sequence[tuple[int, str | None]]) -> list[str]:
        rows = self.rows()
        for number, text in wanted:
            row, self._secrets[number] = self.make(number, text)
            if number in self._at:
                rows[self._at[number]] = row
            else:
                self._at[number] = len(rows)
                rows.append(row)
        self.write(self.text(rows))
        return [self.id_of(self._at[number]) for number, _ in wanted]

    def break_one(self) -> str:
        rows = [*self.rows(), self.malformed()]
        self.write(self.text(rows))
        return self.id_of(len(rows) - 1)

    def change(self, id: str) -> None:  # noqa: A002  # as estates call it
        rows = self.rows()
        at = int(id.rpartition(" ")[2]) - self.header - 1
        rows[at] = self.changed(rows[at])
        self.write(self.text(rows))

    def secret_of(self, number: int) -> str:
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        yield self.path.read_bytes()

    def id_of(self, at: int) -> str:
        return f"{self.path.name}:{self.row} {at + self.header + 1}"

    def serial(self) -> int:
        return next(self._serial)

    def write(self, text: bytes) -> None:
        """Put another file in the place of this one, as editors do."""
        new = self.path.with_suffix(".written")
        new.write_bytes(text)
        new.chmod(0o600)
        new.replace(self.path)
