"""The law of sources, run over the table of estates: each a real system, made once for all laws of its kind."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from strongroom.migration.sources.base import Findable, Scrubbable
from tests.laws.sources import (
    FIND_LAWS,
    LAWS,
    MANY,
    SCRUB_LAWS,
    STOP_LAWS,
    TEXT_LAWS,
    Law,
    identity_is_of_one_estate,
    memory_stays_flat,
    name_of,
)
from tests.migration.sources import (
    ansible,
    commissaire,
    convection,
    csv_file,
    custodia,
    json_lines,
    key_directory,
    memory,
    openbao,
    strongroom,
)
from tests.migration.sources.base import Estate, Maker, Spoken, Stoppable, source_of


class Line(NamedTuple):
    """What makes the estates, the laws that they are under beside those of all, and how many items are many to them.

    None where many would take minutes to put there: another line has the same reader, or the system itself answers one
    item at a time.
    """

    make: Maker
    laws: Sequence[Law]
    many: int | None = MANY


ESTATES: Final[Mapping[str, Line]] = {
    "memory": Line(memory.estate, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS]),
    "commissaire-v3": Line(commissaire.estate_v3, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS], many=1500),
    "commissaire-v2": Line(commissaire.estate_v2, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS]),
    "custodia-overlay": Line(custodia.estate_overlay, [*SCRUB_LAWS, *FIND_LAWS, *TEXT_LAWS], many=900),
    "custodia-unpinned": Line(custodia.estate_unpinned, [*SCRUB_LAWS, *FIND_LAWS, *TEXT_LAWS], many=900),
    "custodia-store": Line(custodia.estate_encrypted_store, [*SCRUB_LAWS, *FIND_LAWS, *TEXT_LAWS], many=900),
    "custodia-clear": Line(custodia.estate_clear, [*SCRUB_LAWS, *FIND_LAWS, *TEXT_LAWS], many=900),
    "custodia-socket": Line(custodia.estate_socket, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS], many=None),
    "convection": Line(convection.estate, [*SCRUB_LAWS, *TEXT_LAWS]),
    "openbao-v1": Line(openbao.estate_v1, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS], many=900),
    "openbao-v2": Line(openbao.estate_v2, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS], many=900),
    "csv-hosts": Line(csv_file.estate, [*SCRUB_LAWS, *TEXT_LAWS]),
    "csv-secrets": Line(csv_file.estate_of_secrets, [*SCRUB_LAWS, *TEXT_LAWS]),
    "csv-key-files": Line(csv_file.estate_of_key_files, [*SCRUB_LAWS, *TEXT_LAWS], many=900),
    "jsonl": Line(json_lines.estate, [*SCRUB_LAWS, *TEXT_LAWS]),
    "ansible": Line(ansible.estate, TEXT_LAWS, many=900),
    "keys": Line(key_directory.estate, [*SCRUB_LAWS, *FIND_LAWS], many=900),
    "strongroom": Line(strongroom.estate, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS]),
}

_LAWS: Final = [(kind, law) for kind, line in ESTATES.items() for law in [*LAWS, *line.laws]]


class Estates:
    """One estate of each kind that was asked for, alive until the tests of this module are done."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._made: dict[str, Estate] = {}

    def of(self, kind: str) -> Estate:
        """Return the one of a kind."""
        if kind not in self._made:
            self._made[kind] = self._stack.enter_context(self.another(kind))
        return self._made[kind]

    def another(self, kind: str) -> AbstractContextManager[Estate]:
        """Give another of that kind."""
        return ESTATES[kind].make(Path(tempfile.mkdtemp(dir=self._directory)))


@pytest.fixture(scope="module")
def estates() -> Iterator[Estates]:
    """Estates in a directory with a short path, for systems that have sockets in theirs."""
    with tempfile.TemporaryDirectory(prefix="sr-") as directory, ExitStack() as stack:
        yield Estates(Path(directory), stack)


@pytest.mark.parametrize(("kind", "law"), _LAWS, ids=[f"{kind}-{name_of(law)}" for kind, law in _LAWS])
def test_law(estates: Estates, kind: str, law: Law) -> None:
    """A source keeps every law that it is under."""
    law(estates.of(kind))


@pytest.mark.parametrize("kind", ESTATES)
def test_another_estate(estates: Estates, kind: str) -> None:
    """No two estates are taken for one, and to read many items takes no more memory than to read few."""
    with estates.another(kind) as another:
        identity_is_of_one_estate(estates.of(kind), another)
        if (many := ESTATES[kind].many) is not None:
            memory_stays_flat(another, many)


@pytest.mark.parametrize("kind", ESTATES)
def test_line(estates: Estates, kind: str) -> None:
    """No estate is spared a law by its line in the table."""
    estate = estates.of(kind)
    source = source_of(estate)
    abilities = [
        (isinstance(source, Scrubbable), SCRUB_LAWS),
        (isinstance(source, Findable), FIND_LAWS),
        (isinstance(estate, Stoppable), STOP_LAWS),
        (isinstance(estate, Spoken), TEXT_LAWS),
    ]

    assert [law for has, laws in abilities if has for law in laws] == ESTATES[kind].laws
