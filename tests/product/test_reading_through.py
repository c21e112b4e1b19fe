"""A service that is in use before the estate has moved: real Commissaire keys in a real etcd, read where they lie."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.bulk_operations import BulkValue, Write
from strongroom.storage_service.errors import Changed, Exists, Internal, NotFound, Unavailable
from tests.audit_lines import audit_lines
from tests.deploy.running import Up, strongroom, up
from tests.etcd_server import running
from tests.migration.sources.commissaire import EstateV3, host
from tests.product.test_canaries import traces
from tests.ssh_keys import with_a_word

KEY = base64.b64encode(with_a_word("canarySSHKEYv4lue").encode()).decode()


def configured(home: Path, place: str, source: str = "commissaire") -> Path:
    """A home whose service reads through."""
    home.mkdir(mode=0o700)
    table = f'[[read_through]]\nsource = "{source}"\nplace = "{place}"\noptions = {{ timeout = "1" }}\n'
    (home / "strongroom.toml").write_text(table)
    return home


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstateV3]:
    """An etcd with Commissaire's keys."""
    with running(tmp_path_factory.mktemp("estate")) as store:
        yield EstateV3(store)


@pytest.fixture(scope="module")
def service(estate: EstateV3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The product, reading through to it."""
    with up(configured(tmp_path_factory.mktemp("service") / "home", estate.place)) as running_service:
        yield running_service


@pytest.fixture
def client(service: Up) -> Iterator[StorageClient]:
    """A client with all rights; it asks once."""
    with StorageClient.from_home(service.home, retries=0) as made:
        yield made


def test_credentials_before_and_while_they_move(estate: EstateV3, service: Up, client: StorageClient) -> None:
    """Read, edited, replaced and removed as if they had moved; the old keys stay as they are."""
    for address in ("h1", "h2", "h3", "h4"):
        estate.put_value(f"hosts/{address}", host(address, KEY))
    before = estate.read("/commissaire/hosts/h1")

    creds, etag = client.get(HostCreds, "h1")
    assert (creds.ssh_priv_key.reveal(), creds.remote_user, etag) == (KEY, "root", wire.NEW)
    assert client.get_many(HostCreds, ["h2", "none"])[1] is None
    with client.edit(HostCreds, "h1") as edited:
        edited.remote_user = "core"
    assert client.get(HostCreds, "h1").model.remote_user == "core"
    with pytest.raises(Exists):
        client.save(creds, etag=etag)
    client.save(HostCreds(address="h2", ssh_priv_key=Secret(KEY), remote_user="any"), etag="*")
    with pytest.raises(Changed):
        client.save(HostCreds(address="none"), etag="*")
    client.delete(HostCreds, "h3")
    for gone in ("h3", "none"):
        with pytest.raises(NotFound):
            client.get(HostCreds, gone)
    assert client.delete_many(HostCreds, ["h3", "h4"]) == [False, True]

    assert [name for name in client.list_container("hosts") if name.startswith("h")] == ["h1", "h2"]
    status = client.status()
    assert status.read_through == [estate.place + "/commissaire"]
    assert status.reads_through >= 4
    narrow = client.create_apikey("narrow")
    with StorageClient(socket=service.socket, api_id=narrow.api_id, api_key=narrow.api_key) as other:
        assert (other.status().read_through, other.status().reads_through) == ([], 0)
    assert estate.read("/commissaire/hosts/h1") == before


def test_the_mover_sees_the_store_alone(estate: EstateV3, client: StorageClient) -> None:
    """What is read through is not there for who moves estates; what it moves is there for all."""
    estate.put_value("hosts/m1", host("m1", KEY))
    (stored,) = client.read_bulk(["secrets/hosts/m1"])
    assert stored is None
    (read,) = client.get_secrets(["hosts/m1"]).values()
    assert read is not None
    client.commit_bulk([Write("secrets/hosts/", Secret("")), Write("secrets/hosts/m1", read, wire.NEW)])

    (moved,) = client.read_bulk(["secrets/hosts/m1"])
    assert moved == BulkValue(read, client.get(HostCreds, "m1").etag)


def test_custodias_face(estate: EstateV3, service: Up, client: StorageClient) -> None:
    """GET shows it with the tag of a new one and never says that it is unchanged; PUT with that tag makes it."""
    estate.put_value("hosts/c1", host("c1", KEY))
    client.save(Host(address="c1"))
    known = json.loads((service.home / "client.json").read_text())
    headers = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    with httpx.Client(base_url=service.url + wire.PROXIED_SECRETS_PATH, headers=headers) as raw:
        raw.post("/hosts/")
        got = raw.get("/hosts/c1", headers={"If-None-Match": wire.NEW})
        assert (got.status_code, got.headers["ETag"]) == (200, wire.NEW)
        assert raw.request("DELETE", "/hosts/c1", headers={"If-Match": wire.NEW}).status_code == 400
        message = {"type": "simple", "value": "new"}
        assert raw.put("/hosts/c1", headers={"If-Match": wire.NEW}, json=message).status_code == 201
        assert raw.put("/hosts/c1", headers={"If-Match": wire.NEW}, json=message).status_code == 409
        assert raw.get("/hosts/c1").json() == message
        assert raw.delete("/hosts/c1").status_code == 204
        assert raw.get("/hosts/c1").status_code == 404


def test_what_is_malformed_there(estate: EstateV3, service: Up, client: StorageClient) -> None:
    """It is an error of the service, not 'not found'; the audit log says so."""
    name = f"secrets/{estate.break_one().removeprefix('/commissaire/')}"
    with pytest.raises(Internal):
        client.get(HostCreds, name.rpartition("/")[2])

    lines = audit_lines(service.home / "log" / "audit.log")
    told = [(line["decision"], line.get("reason")) for line in lines if line["name"] == name]
    assert told == [("allowed", None), ("failed", "it is malformed in its old place")]


def test_while_the_old_place_is_down(tmp_path: Path) -> None:
    """What may lie there is unavailable, also to a service that starts meanwhile; what is in the store is served."""
    with running(tmp_path) as store:
        estate = EstateV3(store)
        estate.put_value("hosts/h1", host("h1", KEY))
        estate.stop()
        with up(configured(tmp_path / "home", estate.place)) as service:
            with StorageClient.from_home(service.home, retries=0) as client:
                client.create_container("db")
                client.set_secret("db", "password", "hunter2")
                assert client.get_secret("db", "password").reveal() == "hunter2"
                for _ in range(2):
                    with pytest.raises(Unavailable):
                        client.get(HostCreds, "h1")
                    with pytest.raises(Unavailable):
                        client.delete(HostCreds, "h1", etag="*")
                estate.start()
                assert client.get(HostCreds, "h1").model.remote_user == "root"
            err = service.end().err
    assert err.count("what has not moved cannot be read") == 1
    assert traces(err.encode()) == []


def test_what_cannot_be_read_through(tmp_path: Path) -> None:
    """A source that cannot be asked by name ends the start, and is told of by the command that checks."""
    home = configured(tmp_path / "home", "/nowhere.csv", "csv")
    (home / "strongroom.toml").write_text('[[read_through]]\nsource = "csv"\nplace = "/nowhere.csv"\n')
    checked = strongroom("--home", home, "config", "check")

    assert checked.code != 0
    assert "'csv' cannot be asked for a record by its name" in checked.err
    with pytest.raises(AssertionError, match="'csv' cannot be asked for a record by its name"), up(home):
        pass


def test_nothing_is_told(estate: EstateV3, tmp_path: Path) -> None:
    """With everything at DEBUG, neither the log nor any file of the service tells what was read there."""
    estate.put_value("hosts/t1", host("t1", KEY))
    with up(configured(tmp_path / "home", estate.place), "--debug") as service:
        with StorageClient.from_home(service.home) as client, client.edit(HostCreds, "t1") as creds:
            creds.remote_user = "core"
        done = service.end()
    emitted = {str(path): path.read_bytes() for path in service.home.rglob("*") if path.is_file()}
    emitted |= {"standard output": done.out.encode(), "standard error": done.err.encode()}

    assert {place: traces(text) for place, text in emitted.items() if traces(text)} == {}
    assert "the first record was read where it still lies" in done.err
