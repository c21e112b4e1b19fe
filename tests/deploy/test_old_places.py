"""Sources of a migration as old places: the law over real estates, and what is refused."""

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from strongroom.deploy.old_places import SourcePlace, old_place
from strongroom.migration.records import Record
from strongroom.models import HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.read_through import OldPlace
from strongroom.storage_service.config import ReadThroughSettings
from strongroom.storage_service.errors import ConfigurationError, Unavailable
from tests.laws.old_places import LAWS, Hand, Law, name_of
from tests.migration.sources.commissaire import EstateV2, EstateV3, estate_v2, estate_v3
from tests.migration.sources.memory import MemoryEstate


class InCommissaire:
    """Hosts in a real etcd, as Commissaire wrote them, and the credentials that they become."""

    def __init__(self, estate: EstateV2 | EstateV3) -> None:
        self._estate = estate
        self._numbers: dict[str, int] = {}

    def place(self) -> OldPlace:
        """As the service makes it."""
        options = {"timeout": ["1"]}
        return old_place(ReadThroughSettings(source="commissaire", place=self._estate.place, options=options))

    def put(self) -> str:
        """Put a host in."""
        number = len(self._numbers) * 5
        name = f"secrets/{self._estate.put(number).removeprefix('/commissaire/')}"
        self._numbers[name] = number
        return name

    def change(self, name: str) -> None:
        """Give it another key."""
        self._estate.put(self._numbers[name])

    def value_of(self, name: str) -> str:
        """Its credentials as a record."""
        key = Secret(self._estate.secret_of(self._numbers[name]))
        creds = HostCreds(address=name.rpartition("/")[2], ssh_priv_key=key, remote_user="root")
        return Record.of(creds).value.reveal()

    def break_one(self) -> str:
        """Put a host in that is no JSON."""
        return f"secrets/{self._estate.break_one().removeprefix('/commissaire/')}"

    def stop(self) -> None:
        """Kill etcd."""
        self._estate.stop()

    def start(self) -> None:
        """Start it again."""
        self._estate.start()


ESTATES: Final = {"etcd": estate_v3, "etcd2": estate_v2}


@pytest.fixture(scope="module", params=ESTATES)
def hand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """A real estate, by either interface."""
    with ESTATES[request.param](tmp_path_factory.mktemp("estate")) as estate:
        assert isinstance(estate, EstateV2 | EstateV3)
        yield InCommissaire(estate)


@pytest.mark.parametrize("law", LAWS, ids=name_of)
def test_law(hand: Hand, law: Law) -> None:
    """Commissaire's etcd is an old place."""
    law(hand)


def test_a_place_that_refuses_is_unavailable() -> None:
    """Whoever is not accepted there cannot tell what is there."""
    estate = MemoryEstate()
    key = estate.put(1)
    place = SourcePlace(estate.source())
    estate.refusing = True
    for ask in (place.open(), place.find([key])):
        with pytest.raises(Unavailable):
            asyncio.run(ask)
    estate.refusing = False

    assert asyncio.run(place.find([key])) == {key: estate.secret_of(1)}
    assert repr(place) == f"<SourcePlace memory:{estate.place}>"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (ReadThroughSettings(source="csv", place="/hosts.csv"), "'csv' cannot be asked for a record by its name"),
        (ReadThroughSettings(source="paper", place="/"), "there is no source 'paper'"),
        (ReadThroughSettings(source="commissaire", place="h:2379"), "Commissaire's place is"),
        (ReadThroughSettings(source="commissaire", place="etcd://h", options={"x": ["1"]}), "has no option 'x'"),
        (ReadThroughSettings(source="commissaire", place="etcd://u:cAnArY@h"), "a password does not belong"),
    ],
)
def test_what_is_refused(settings: ReadThroughSettings, reason: str) -> None:
    """It is told before anything is opened, and without a password."""
    with pytest.raises(ConfigurationError) as caught:
        old_place(settings)
    assert reason in str(caught.value)
    assert "cAnArY" not in str(caught.value)
