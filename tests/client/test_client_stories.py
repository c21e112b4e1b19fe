"""The client against the real service: every operation, with both faces, and secrets through the proxy as well."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models.hosts import Host, HostCreds, Hosts, HostState
from strongroom.models.secret import Secret
from strongroom.storage_service import errors
from strongroom.storage_service.client.address import read_home

Connect = Callable[..., Any]


@pytest.fixture
def addresses(client: Any) -> Iterator[list[str]]:
    """Addresses of hosts, a handful; whatever is stored under them is removed in the end."""
    used = [f"10.9.8.{n}" for n in range(5)]
    yield used
    client.delete_many(Host, used)
    client.delete_many(HostCreds, used)


# Secrets


def test_a_secret_from_beginning_to_end(keeper: Any, container: str) -> None:
    """Created once, read, replaced at its revision alone, listed, and removed with its container."""
    assert keeper.create_container(container) is True
    assert keeper.create_container(container) is False
    first = keeper.set_secret(container, "password", "hunter2")
    assert keeper.get_secret(container, "password") == (Secret("hunter2"), first)

    with pytest.raises(errors.Exists):
        keeper.set_secret(container, "password", "other")
    second = keeper.set_secret(container, "password", Secret("hunter3"), etag=first)
    assert second != first
    with pytest.raises(errors.Changed):
        keeper.set_secret(container, "password", "lost update", etag=first)
    with pytest.raises(errors.Changed):
        keeper.delete_secret(container, "password", etag=first)
    third = keeper.set_secret(container, "password", "hunter4", etag="*")
    assert keeper.get_secret(container, "password").reveal() == "hunter4"

    assert keeper.list_container(container) == ["password"]
    with pytest.raises(errors.NotEmpty):
        keeper.delete_container(container)
    keeper.delete_secret(container, "password", etag=third)
    with pytest.raises(errors.NotFound):
        keeper.get_secret(container, "password")
    with pytest.raises(errors.NotFound):
        keeper.delete_secret(container, "password")
    keeper.delete_container(container)
    with pytest.raises(errors.NotFound):
        keeper.list_container(container)


def test_what_is_not_there_cannot_be_replaced(keeper: Any, container: str) -> None:
    """An etag asks for a record; "*" for any. Without a container nothing is created."""
    with pytest.raises(errors.NoContainer):
        keeper.set_secret(container, "password", "hunter2")
    keeper.create_container(container)
    for etag in ("*", '"1"'):
        with pytest.raises(errors.Changed):
            keeper.set_secret(container, "password", "hunter2", etag=etag)
    assert keeper.list_container(container) == []


def test_bytes_come_back_as_they_were(keeper: Any, container: str) -> None:
    """Any bytes, 512 KiB of them, and not one more."""
    keeper.create_container(container)
    largest = bytes(range(256)) * 2048
    keeper.set_secret(container, "key.der", largest)
    keeper.set_secret(container, "text", "pässword ✓ \n\x00")

    assert keeper.get_secret(container, "key.der").reveal_bytes() == largest
    assert keeper.get_secret(container, "text").reveal() == "pässword ✓ \n\x00"
    with pytest.raises(errors.TooLarge):
        keeper.set_secret(container, "key.pem", largest + b"!")


def test_large_secrets_follow_one_another_on_one_connection(
    connect: Connect, strongroom_server: Server, container: str
) -> None:
    """A request that is sent the moment the answer before it came is served, not cut off (64 KiB was the limit)."""
    address, caller = read_home(strongroom_server.home)
    largest = bytes(512 * 1024)
    for where in ({"socket": address.socket}, {"url": strongroom_server.url}):
        client = connect(**where, api_id=caller.api_id, api_key=caller.api_key, retries=0)
        client.create_container(container)
        etag = client.set_secret(container, "large", largest)
        for _ in range(25):
            etag = client.set_secret(container, "large", largest, etag=etag)
        client.delete_secret(container, "large", etag=etag)


def test_containers_lie_in_containers(keeper: Any, container: str) -> None:
    """A container's own container comes first; a listing shows what is below."""
    with pytest.raises(errors.NoContainer):
        keeper.create_container(f"{container}/inner")
    keeper.create_container(container)
    keeper.create_container(f"{container}/inner/")
    keeper.set_secret(f"{container}/inner", "deep", "x")

    assert keeper.list_container(container) == ["inner/", "inner/deep"]


def test_over_a_thousand_secrets_in_one_question(keeper: Any, container: str) -> None:
    """More names than one request takes; those that exist come with their values, the others as None."""
    keeper.create_container(container)
    names = [f"{container}/s{n}" for n in range(1001)]
    for name in (names[0], names[-1]):
        keeper.set_secret(container, name.rpartition("/")[2], name)
    found = keeper.get_secrets(names)

    assert list(found) == names
    assert {name: secret.reveal() for name, secret in found.items() if secret} == {n: n for n in (names[0], names[-1])}


# Models


def test_a_record_from_beginning_to_end(client: Any, addresses: list[str]) -> None:
    """Saved, read, saved again at its revision alone, and removed."""
    host = Host.new(address=addresses[0], status="investigating", cpus=4)
    saved = client.save(host)
    assert saved.model == host
    assert client.get(Host, host.address) == saved

    host.status = HostState.ACTIVE
    again = client.save(host, etag=saved.etag)
    assert again.etag != saved.etag
    with pytest.raises(errors.Changed):
        client.save(host, etag=saved.etag)
    with pytest.raises(errors.Changed):
        client.delete(Host, host.address, etag=saved.etag)
    client.delete(Host, host.address, etag=again.etag)
    with pytest.raises(errors.NotFound):
        client.get(Host, host.address)
    with pytest.raises(errors.NotFound):
        client.delete(Host, host.address)
    with pytest.raises(errors.Changed):
        client.save(host, etag="*")


def test_credentials_are_records_like_others(client: Any, addresses: list[str]) -> None:
    """A secret model is saved, read, changed and listed as a secret; its values stay Secrets."""
    creds = HostCreds.new(address=addresses[0], ssh_priv_key="c2VjcmV0", remote_user="core")
    saved = client.save(creds)

    assert client.get(HostCreds, addresses[0]) == saved
    assert isinstance(saved.model.ssh_priv_key, Secret)
    assert addresses[0] in client.list_container("hosts")
    assert creds.from_json(client.get_secret("hosts", addresses[0]).reveal_bytes()) == creds


def test_a_record_that_breaks_the_rules_is_refused_with_its_faults(client: Any, addresses: list[str]) -> None:
    """The faults name field and reason, and no value."""
    creds = HostCreds.new(address=addresses[0], ssh_priv_key="not base64!")

    with pytest.raises(errors.Invalid) as caught:
        client.save(creds)
    assert [field for field, _ in caught.value.faults] == ["ssh_priv_key"]
    assert "not base64!" not in str(caught.value) + repr(caught.value.faults)


def test_many_at_once(client: Any, addresses: list[str]) -> None:
    """Saved, read and removed together, in the order asked, with gaps for what is not there."""
    hosts = [Host.new(address=address) for address in addresses[:3]]
    saved = client.save_many(hosts)
    assert [record.model for record in saved] == hosts

    missing = addresses[4]
    found = client.get_many(Host, [missing, addresses[2], addresses[0]])
    assert found == [None, saved[2], saved[0]]
    assert client.delete_many(Host, [addresses[0], missing]) == [True, False]
    assert client.get_many(Host, addresses[:1]) == [None]


def test_a_listing_of_more_than_one_page(client: Any) -> None:
    """Every record is listed once, by key, however many pages they fill."""
    hosts = [Host.new(address=f"10.{200 + n // 250}.0.{n % 250}") for n in range(1100)]
    client.save_many(hosts)
    addresses = {host.address for host in hosts}
    listed = [record.model for record in client.list(Hosts) if record.model.address in addresses]
    client.delete_many(Host, [host.address for host in hosts])

    assert listed == sorted(hosts, key=lambda host: host.address)


def test_an_edit_is_saved_at_its_end(client: Any, addresses: list[str]) -> None:
    """What the block changes is stored; what the block does before it fails is not."""
    client.save(Host.new(address=addresses[0]))
    with client.edit(Host, addresses[0]) as host:
        host.status = HostState.ACTIVE

    def fail() -> None:
        with client.edit(Host, addresses[0]) as host:
            host.status = HostState.FAILED
            host.cpus = 1 // 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert client.get(Host, addresses[0]).model.status is HostState.ACTIVE


def test_of_two_edits_at_once_one_is_told(client: Any, addresses: list[str]) -> None:
    """Nobody's change is lost unnoticed."""
    client.save(Host.new(address=addresses[0]))

    def both() -> None:
        with client.edit(Host, addresses[0]) as mine:
            with client.edit(Host, addresses[0]) as theirs:
                theirs.cpus = 8
            mine.cpus = 4

    with pytest.raises(errors.Changed):
        both()
    assert client.get(Host, addresses[0]).model.cpus == 8


# Access and operations


def test_an_api_key_reaches_what_it_is_made_for(client: Any, connect: Connect, container: str) -> None:
    """It opens its own paths, no others, and nothing once it is revoked."""
    client.create_container(container)
    client.set_secret(container, "password", "hunter2")
    issued = client.create_apikey(f"{container}-reader", paths=[f"/secrets/{container}"], actions=["get"])
    reader = connect(socket=client._address.socket, api_id=issued.api_id, api_key=issued.api_key)

    assert reader.get_secret(container, "password").reveal() == "hunter2"
    assert reader.whoami().principal == f"apikey:{container}-reader"
    with pytest.raises(errors.Denied):
        reader.get_secret("elsewhere", "password")
    with pytest.raises(errors.Denied):
        reader.set_secret(container, "password", "x", etag="*")
    with pytest.raises(errors.Denied):
        reader.list_apikeys()
    assert issued.api_id in [listed.id for listed in client.list_apikeys()]
    with pytest.raises(errors.Exists):
        client.create_apikey(issued.api_id)
    client.revoke_apikey(issued.api_id)
    with pytest.raises(errors.Denied):
        reader.get_secret(container, "password")
    with pytest.raises(errors.NotFound):
        client.revoke_apikey(issued.api_id)


def test_a_wrong_key_is_denied(connect: Connect, strongroom_server: Server) -> None:
    """Wrong id and wrong key are the same refusal, on the socket and through the proxy."""
    for where in ({"socket": strongroom_server.socket}, {"url": strongroom_server.url}):
        with pytest.raises(errors.Denied):
            connect(**where, api_id="nobody", api_key="wrong").get_secret("db", "password")


def test_the_service_tells_of_itself(client: Any) -> None:
    """State, caller, handlers and the endpoint of the secrets."""
    assert client.status().state == "unlocked"
    assert client.status().store == "sqlite"
    assert client.whoami().principal.startswith("apikey:")
    assert client.secrets_endpoint() == "/secrets/"
    keeps = {model: handler.name for handler in client.list_store_handlers() for model in handler.models}
    assert keeps["Host"] != keeps["HostCreds"]


def test_the_proxy_is_asked_for_secrets_alone(connect: Connect, strongroom_server: Server) -> None:
    """What it does not offer in this form is refused before it is sent."""
    through = connect(url=strongroom_server.url, api_id="a", api_key="k")

    with pytest.raises(errors.NotImplementedHere):
        through.get(Host, "10.0.0.7")
