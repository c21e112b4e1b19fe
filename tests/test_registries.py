"""Each family has one table: a line in it is all that settings and service need to know a new member by its name."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult

import pytest

from strongroom.deploy import settings
from strongroom.deploy.old_places import old_place
from strongroom.deploy.settings import Settings, custodia_conf
from strongroom.deploy.settings.layer import Placeholders
from strongroom.http_proxy import authn
from strongroom.http_proxy.authn.base import Identity
from strongroom.migration import sources
from strongroom.migration.digest import Digest
from strongroom.migration.sources.base import Option, Options
from strongroom.models.secret import Secret
from strongroom.storage_service.access import registry
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.backends import BACKENDS
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot, build
from strongroom.storage_service.client.place import Place
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError, Denied
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.wire.head import Head
from strongroom.storage_service.wire.http1 import Peer

KEYS: Final = {"STRONGROOM_API_KEY": "k", "STRONGROOM_PROXY_KEY": "p"}
NEW: Final = """
store = "attic:loft"
authenticators = [{handler = "Doorbell", tune = "bell"}]
authorizers = [{handler = "Guests", names = "ada bea"}]
engines = [{handler = "Oracle", name = "delphi", stance = "must-allow", word = "x"}]
proxy_authenticators = [{name = "knock", times = "3"}]
read_through = [{source = "cellar", place = "below", options = {shelf = "2"}}]
"""
CUSTODIA: Final = """
[store:file]
handler = SqliteStore
dburi = /db
[store:locked]
handler = EncryptedOverlay
backing_store = file
master_key = /key
[/secrets]
handler = Secrets
store = locked
[auth:a]
handler = Doorbell
tune = bell
[authz:a]
handler = Guests
names = ada bea
"""
OPTIONS: Final = {"shelf": Option("which one")}  # of the source; this module is it


class Doorbell:
    """An authenticator of the service: whoever comes is who its tune says."""

    def __init__(self, tune: str) -> None:
        self.tune = tune

    @classmethod
    def from_options(cls, options: Mapping[str, str], keys: ApiKeys) -> Self:
        assert isinstance(keys, ApiKeys)
        return cls(**options)

    async def authenticate(self, head: Head, peer: Peer | None) -> Principal | None:
        del head, peer
        return Principal(f"visitor:{self.tune}")


class Guests:
    """An authorizer: whoever is on the list may do all."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        return cls(options["names"].split())

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        del action, name
        return True if principal.name in self.names else None

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        del principal, action, below
        return False

    def tops(self, principal: Principal) -> Sequence[str]:
        del principal
        return ()

    def own_container(self, principal: Principal) -> str | None:
        del principal
        return None


class Oracle:
    """An engine: whoever asks for what its word is in hears yes."""

    def __init__(self, word: str) -> None:
        self.word = word

    @classmethod
    def from_options(cls, options: Mapping[str, str], token: Secret | None) -> Self:
        assert token is None
        return cls(**options)

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        del subject, action
        return self.word in resource

    def close(self) -> None:
        """Nothing is open."""


class Knock:
    """An authenticator of the proxy: whoever comes has knocked."""

    challenge: str | None = None

    def __init__(self, times: str) -> None:
        self.times = times

    @classmethod
    def from_options(cls, options: Mapping[str, str], pool: Pool, proof: bytes) -> Self:
        del pool, proof
        return cls(**options)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        del headers
        return Identity(f"visitor:{self.times}")


class Cellar:
    """A source that cannot be asked for a record by its name, which is what the service finds out."""

    def __init__(self, place: str, options: Options) -> None:
        self.identity = f"{place} {options['shelf'][0]}"

    async def open(self, digest: Digest) -> None:
        """Nothing is to be opened."""


def make(place: str, options: Options) -> Cellar:
    """Return the source, unopened."""
    return Cellar(place, options)


@pytest.fixture
def stores() -> list[str]:
    """What the new backend was asked to open."""
    return []


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch, stores: list[str]) -> None:
    """A line in the table of each family."""

    def attic(url: SplitResult, options: Mapping[str, str]) -> Backend:
        assert not options
        stores.append(url.path)
        return MemoryBackend()

    monkeypatch.setitem(registry.AUTHENTICATORS, "Doorbell", registry.Kind(f"{__name__}:Doorbell", ("tune",)))
    monkeypatch.setitem(registry.AUTHORIZERS, "Guests", registry.Kind(f"{__name__}:Guests", ("names",)))
    monkeypatch.setitem(registry.ENGINES, "Oracle", registry.Kind(f"{__name__}:Oracle", ("word",)))
    monkeypatch.setitem(authn.AUTHENTICATORS, "knock", Knock)
    monkeypatch.setitem(BACKENDS, "attic", attic)
    monkeypatch.setitem(sources.SOURCES, "cellar", sources.Kind("cellar", "what is below", "PLACE"))
    monkeypatch.setitem(sys.modules, f"{sources.__name__}.cellar", sys.modules[__name__])


def load(home: Path, text: str = NEW) -> Settings:
    """Load settings that name every new member."""
    home.mkdir(exist_ok=True)
    (home / "strongroom.toml").write_text(text)
    return settings.load(environ=KEYS, home=home)


async def test_a_line_each_is_enough_for_the_service(tmp_path: Path, stores: list[str]) -> None:
    """Settings take the names and options of new members of four families, and the service uses them."""
    told = load(tmp_path, NEW.partition("read_through")[0])
    for directory in told.directories():
        directory.mkdir(exist_ok=True)
    page = SharedRoot()

    parts = await build(told.service, page)

    assert stores == ["loft"]
    doorbell, *_ = parts.authenticators  # the others know tokens, passwords and certificates
    bell = await doorbell.authenticate(Head(), None)
    assert bell == Principal("visitor:bell")
    assert await parts.door.able(Caller(Principal("visitor:ada"), "1"), Action.GET, ["secrets/x", "secrets/y"]) == [
        "secrets/x"
    ]
    with pytest.raises(Denied):
        await parts.door.permit(Caller(bell, "2"), Action.GET, ["secrets/x"])
    await parts.close()
    page.close()


async def test_a_line_is_enough_for_the_proxy(tmp_path: Path) -> None:
    """Settings take the name and options of a new authenticator of the proxy, and that is what the proxy asks."""
    [knock] = authn.make(load(tmp_path).proxy.authenticators, Pool(Place("/nowhere"), 1))

    assert await knock.authenticate({}) == Identity("visitor:3")


def test_a_line_is_enough_for_a_source(tmp_path: Path) -> None:
    """A new source opens by its name, with its options; and is read through if it can be asked for a name."""
    [told] = load(tmp_path).service.read_through

    assert sources.open_source(told.source, told.place, told.options).identity == "below 2"
    with pytest.raises(ConfigurationError, match="'cellar' cannot be asked"):
        old_place(told)
    with pytest.raises(ConfigurationError, match="options are: shelf"):
        sources.open_source("cellar", "below", {"box": ["2"]})


def test_custodias_file_takes_what_the_tables_have(tmp_path: Path) -> None:
    """A new authenticator or authorizer can stand in a custodia.conf, with the options in its line and no other."""
    file = tmp_path / "custodia.conf"
    file.write_text(CUSTODIA)

    values = custodia_conf.read(file, Placeholders({}, {}), {}).values

    assert values["authenticators"] == [{"handler": "Doorbell", "tune": "bell"}]
    assert values["authorizers"] == [{"handler": "Guests", "names": "ada bea"}]
    file.write_text(CUSTODIA + "colour = red\n")
    with pytest.raises(ConfigurationError, match="colour"):
        custodia_conf.read(file, Placeholders({}, {}), {})


def test_an_option_that_is_not_in_the_line_is_refused(tmp_path: Path) -> None:
    """What a line does not name as an option is refused before anything is made."""
    with pytest.raises(ConfigurationError, match="colour"):
        load(tmp_path, NEW.replace("tune =", "colour ="))
    with pytest.raises(ConfigurationError, match="colour"):
        load(tmp_path, NEW.replace("names =", "colour ="))
    with pytest.raises(ConfigurationError, match="colour"):
        load(tmp_path, NEW.replace("word =", "colour ="))
