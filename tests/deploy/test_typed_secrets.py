"""``strongroom secret put`` at a terminal: what stands in the way of a new secret is told before it is typed."""

import secrets
from collections.abc import Iterator

import pytest

from strongroom.storage_service.client import StorageClient
from tests.at_terminal import AtTerminal
from tests.deploy.running import ROOT, Up, clean_environment
from tests.deploy.terminal import PROGRAM, Terminal


@pytest.fixture
def client(service: Up) -> Iterator[StorageClient]:
    """A client of the service."""
    with StorageClient.from_home(service.home) as client:
        yield client


@pytest.fixture
def drawer(client: StorageClient) -> str:
    """A container of this test's own, with a secret and one whose name begins alike."""
    name = f"typed{secrets.token_hex(4)}"
    for container in (name, f"{name}/p"):
        client.create_container(container)
    for key in ("p", "p2"):
        client.set_secret(name, key, "there")
    return name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("p", "DRAWER/p exists already; say --replace to replace it"),
        ("p/q/r", "there is no container DRAWER/p/q; make it first: strongroom --home"),
    ],
)
def test_it_is_told_before_the_value_is_typed(service: Up, drawer: str, name: str, told: str) -> None:
    """A name that is taken, or a container that is missing, ends it without a question."""
    with Terminal(service.home, "put", f"{drawer}/{name}", noun="secret") as terminal:
        terminal.sees(told.replace("DRAWER", drawer).partition(": ")[0])
        assert terminal.ends() in (4, 5)
    assert "Secret: " not in terminal.screen


@pytest.mark.parametrize(
    ("name", "options"),
    [("p1", ()), ("p", ("--replace",)), ("p/q", ()), ("p/q/r", ("--parents",))],
    ids=["new", "replace", "inner", "parents"],
)
def test_what_is_in_nobodys_way_is_asked_for(
    service: Up, drawer: str, client: StorageClient, name: str, options: tuple[str, ...]
) -> None:
    """A new name, and what is said to be replaced or made, is typed, and stored."""
    with Terminal(service.home, "put", f"{drawer}/{name}", *options, noun="secret") as terminal:
        terminal.sees("Secret: ")
        terminal.types("s3cret")
        terminal.sees("stored")
        assert terminal.ends() == 0
    assert client.get_secrets([f"{drawer}/{name}"])[f"{drawer}/{name}"].reveal() == "s3cret"  # type: ignore[union-attr]


def test_who_is_faster_ends_it_all_the_same(service: Up, drawer: str, client: StorageClient) -> None:
    """A secret that comes while another is typed is not replaced, and told afterwards."""
    with Terminal(service.home, "put", f"{drawer}/new", noun="secret") as terminal:
        terminal.sees("Secret: ")
        client.set_secret(drawer, "new", "theirs")
        terminal.types("mine")
        terminal.sees(f"{drawer}/new exists already; say --replace to replace it")
        assert terminal.ends() == 5
    assert client.get_secret(drawer, "new").reveal() == "theirs"


def test_who_may_write_and_not_list_is_asked(service: Up, drawer: str, client: StorageClient) -> None:
    """A key that may put alone stores a new secret, and is told of a conflict afterwards, without reading anything."""
    key = client.create_apikey(f"put-{drawer}", paths=[f"/secrets/{drawer}"], actions=["put"])
    environ = clean_environment(
        TERM="dumb",
        COLUMNS="400",
        STRONGROOM_SOCKET=str(service.socket),
        STRONGROOM_API_ID=key.api_id,
        STRONGROOM_API_KEY=key.api_key.reveal(),
    )
    for name, told, code in (("new", f"stored {drawer}/new", 0), ("p", f"{drawer}/p exists already", 5)):
        with AtTerminal([*PROGRAM, "secret", "put", f"{drawer}/{name}"], environ, ROOT) as terminal:
            terminal.sees("Secret: ")
            terminal.types("mine")
            terminal.sees(told)
            assert terminal.ends() == code
