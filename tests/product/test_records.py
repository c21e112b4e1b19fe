"""Records and their credentials through the proxy and the client: what two callers at once may and may not do."""

import base64
import json
import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models import Host, HostCreds, Network, NetworkType, Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Exists


@pytest.fixture
def proxy(strongroom_server: Server) -> httpx.Client:
    """The model routes, with the service's own key."""
    known = json.loads((strongroom_server.home / "client.json").read_text())
    credentials = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    return httpx.Client(base_url=strongroom_server.url + wire.API_PATH, headers=credentials, timeout=30)


def test_a_new_record_is_made_once(strongroom: StorageClient) -> None:
    """Saving with the tag of what does not exist makes a record, and never replaces one."""
    name = f"net-{secrets.token_hex(4)}"

    strongroom.save(Network(name=name), etag=wire.NEW)

    with pytest.raises(Exists):
        strongroom.save(Network(name=name, type=NetworkType.FLANNEL_SERVER), etag=wire.NEW)
    assert strongroom.get(Network, name).model.type == "flannel_etcd"


def test_of_many_who_add_a_host_one_does(proxy: httpx.Client, strongroom: StorageClient) -> None:
    """Of eight PUTs of one host with eight keys, one is 201; the others are told, and the key that stays is its key."""
    address = f"h-{secrets.token_hex(4)}"
    keys = [base64.b64encode(f"key {number}".encode()).decode() for number in range(8)]

    with proxy, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda key: proxy.put(f"/host/{address}", json={"ssh_priv_key": key}), keys))

    counted = Counter(answer.status_code for answer in answers)
    assert counted[201] == 1
    assert set(counted) <= {201, 409, 412}
    winner = keys[[answer.status_code for answer in answers].index(201)]
    assert strongroom.get(HostCreds, address).model.ssh_priv_key.reveal() == winner
    assert strongroom.get(Host, address).model.address == address


def test_a_host_and_its_credentials_live_and_go_together(proxy: httpx.Client, strongroom: StorageClient) -> None:
    """PUT stores both, GET shows no secret, /creds does, DELETE removes both."""
    address = f"h-{secrets.token_hex(4)}"
    key = base64.b64encode(b"an ssh key").decode()
    with proxy:
        made = proxy.put(f"/host/{address}", json={"ssh_priv_key": key, "remote_user": "core"})
        shown, creds = proxy.get(f"/host/{address}"), proxy.get(f"/host/{address}/creds")
        gone = proxy.delete(f"/host/{address}/")
        after = [
            proxy.get(f"/host/{address}"),
            proxy.get(f"/host/{address}/creds"),
            proxy.get(f"/secrets/hosts/{address}"),
        ]

    assert made.status_code == 201
    assert key not in made.text + shown.text
    assert (creds.json()["ssh_priv_key"], creds.json()["remote_user"]) == (key, "core")
    assert gone.is_success
    assert [answer.status_code for answer in after] == [404, 404, 404]


def test_one_secret_by_every_way(proxy: httpx.Client, strongroom: StorageClient) -> None:
    """Credentials saved as a model read as a secret, by the same name, with one audit subject."""
    address = f"h-{secrets.token_hex(4)}"
    strongroom.save(HostCreds(address=address, ssh_priv_key=Secret(base64.b64encode(b"k").decode())))

    with proxy:
        message = proxy.get(f"/secrets/hosts/{address}").json()

    assert json.loads(base64.b64decode(message["value"])) == {
        "address": address,
        "ssh_priv_key": base64.b64encode(b"k").decode(),
        "remote_user": "root",
    }


def test_a_key_reaches_what_it_was_made_for(proxy: httpx.Client, strongroom: StorageClient) -> None:
    """A key for one container, to read it, reads it and nothing else, by any way, and ends when it is revoked."""
    box, key_id = f"box-{secrets.token_hex(4)}", f"key-{secrets.token_hex(4)}"
    strongroom.create_container(box)
    strongroom.set_secret(box, "a", "aaa")
    key = strongroom.create_apikey(key_id, paths=[f"/secrets/{box}"], actions=["get"])
    own = {wire.ID_HEADER: key_id, wire.KEY_HEADER: key.api_key.reveal()}
    simple = json.dumps({"type": "simple", "value": "x"})

    def tried() -> list[int]:
        return [
            proxy.get(f"/secrets/{box}/a", headers=own).status_code,
            proxy.get(f"/secrets/{box}/", headers=own).status_code,
            proxy.put(f"/secrets/{box}/b", headers=own | {"Content-Type": wire.JSON}, content=simple).status_code,
            proxy.delete(f"/secrets/{box}/a", headers=own).status_code,
            proxy.get("/secrets/hosts/none", headers=own).status_code,
            proxy.get("/hosts/", headers=own).status_code,
            proxy.get("/host/none/creds", headers=own).status_code,
        ]

    with proxy:
        alive = tried()
        strongroom.revoke_apikey(key_id)
        revoked = tried()

    assert alive == [200, 403, 403, 403, 403, 403, 403]
    assert revoked == [403] * 7
