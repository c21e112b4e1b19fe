"""The law of sources, run over the table of estates: each a real system, made once for all laws of its kind."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from migration.sources.base import Findable, Scrubbable
from tests.laws.sources import (
    FIND_LAWS,
    LAWS,
    SCRUB_LAWS,
    STOP_LAWS,
    TEXT_LAWS,
    Law,
    identity_is_of_one_estate,
    memory_stays_flat,
    name_of,
)
from tests.migration.estates import memory
from tests.migration.estates.base import Estate, Maker, Spoken, Stoppable, source_of


class Line(NamedTuple):
    """What makes the estates, and the laws that they are under beside those of all."""

    make: Maker
    laws: Sequence[Law]


ESTATES: Final[Mapping[str, Line]] = {
    "memory": Line(memory.estate, [*SCRUB_LAWS, *FIND_LAWS, *STOP_LAWS, *TEXT_LAWS]),
}

_LAWS: Final = [(kind, law) for kind, line in ESTATES.items() for law in [*LAWS, *line.laws]]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a short path, for systems that have sockets in theirs."""
    path = Path(tempfile.mkdtemp(prefix="sr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def estate(request: pytest.FixtureRequest, directory: Path) -> Iterator[Estate]:
    """An estate of the kind that is asked for, which all laws share."""
    with ESTATES[request.param].make(_new(directory)) as made:
        yield made


def _new(directory: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=directory))


@pytest.mark.parametrize(
    ("estate", "law"),
    _LAWS,
    indirect=["estate"],
    scope="module",
    ids=[f"{kind}-{name_of(law)}" for kind, law in _LAWS],
)
def test_law(estate: Estate, law: Law) -> None:
    """A source keeps every law that it is under."""
    law(estate)


@pytest.mark.parametrize(("estate", "kind"), [(kind, kind) for kind in ESTATES], indirect=["estate"], ids=ESTATES)
def test_another_estate(estate: Estate, kind: str, directory: Path) -> None:
    """No two estates are taken for one, and to read many items takes no more memory than to read few."""
    with ESTATES[kind].make(_new(directory)) as another:
        identity_is_of_one_estate(estate, another)
        memory_stays_flat(another)


@pytest.mark.parametrize(("estate", "kind"), [(kind, kind) for kind in ESTATES], indirect=["estate"], ids=ESTATES)
def test_line(estate: Estate, kind: str) -> None:
    """No estate is spared a law by its line in the table."""
    source = source_of(estate)
    abilities = [
        (isinstance(source, Scrubbable), SCRUB_LAWS),
        (isinstance(source, Findable), FIND_LAWS),
        (isinstance(estate, Stoppable), STOP_LAWS),
        (isinstance(estate, Spoken), TEXT_LAWS),
    ]

    assert [law for has, laws in abilities if has for law in laws] == ESTATES[kind].laws
