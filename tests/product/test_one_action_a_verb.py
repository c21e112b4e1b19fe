"""Verbs and actions once more, from outside: what a key with one action does, and one with all but that."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models import Host, HostCreds, Hosts, Network
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Denied, Invalid

ACTIONS: Final = frozenset({"get", "list", "put", "delete"})
KEY: Final = "a2V5"  # as good as any


@dataclass
class Scene:
    """Names of one test's own, under which all is there that a verb needs."""

    name: str = field(default_factory=lambda: f"door-{secrets.token_hex(6)}")

    @property
    def new(self) -> str:
        """A name under which nothing is."""
        return self.name + "-new"

    def furnish(self, operator: StorageClient) -> None:
        """Make what the verbs need."""
        operator.create_container(self.name)
        operator.create_container(self.name + "-empty")
        operator.set_secret(self.name, "a", "the value of a")
        operator.save(Host(address=self.name))
        operator.save(HostCreds.new(address=self.name, ssh_priv_key=KEY))
        operator.create_apikey(self.name, paths=[f"/secrets/{self.name}"], actions=["delete"])


Verb = Callable[[StorageClient, Scene], object]

VERBS: dict[str, tuple[Verb, str]] = {
    "get a secret": (lambda client, scene: client.get_secret(scene.name, "a"), "get"),
    "get secrets": (lambda client, scene: client.get_secrets([f"{scene.name}/a"]), "get"),
    "create a secret": (lambda client, scene: client.set_secret(scene.name, "b", "x"), "put"),
    "replace a secret": (lambda client, scene: client.set_secret(scene.name, "a", "x", etag="*"), "put"),
    "delete a secret": (lambda client, scene: client.delete_secret(scene.name, "a"), "delete"),
    "create a container": (lambda client, scene: client.create_container(scene.new), "put"),
    "list a container": (lambda client, scene: client.list_container(scene.name), "list"),
    "delete a container": (lambda client, scene: client.delete_container(scene.name + "-empty"), "delete"),
    "get a record": (lambda client, scene: client.get(Host, scene.name), "get"),
    "get a secret record": (lambda client, scene: client.get(HostCreds, scene.name), "get"),
    "get records": (lambda client, scene: client.get_many(Host, [scene.name, scene.new]), "get"),
    "save a record": (lambda client, scene: client.save(Network(name=scene.new)), "put"),
    "save a secret record": (lambda client, scene: client.save(HostCreds.new(address=scene.new)), "put"),
    "delete a record": (lambda client, scene: client.delete(Host, scene.name), "delete"),
    "delete a secret record": (lambda client, scene: client.delete(HostCreds, scene.name), "delete"),
    "list records": (lambda client, _: next(client.list(Hosts)), "list"),
    "list keys of records": (lambda client, _: client.list_keys(Hosts), "list"),
    "make an API key": (lambda client, scene: client.create_apikey(scene.new, paths=["/"], actions=["put"]), "put"),
    "list API keys": (lambda client, _: client.list_apikeys(), "list"),
    "revoke an API key": (lambda client, scene: client.revoke_apikey(scene.name), "delete"),
    "tell of the keyring": (lambda client, _: client.keyring(), "get"),
    "list keysets": (lambda client, _: client.list_keysets(), "list"),
    "make a keyset": (lambda client, scene: client.create_keyset(scene.new), "put"),
    "register a backup": (lambda client, scene: client.register_backup(scene.new), "put"),
}


@pytest.fixture(scope="module")
def keys(strongroom_server: Server) -> Iterator[dict[frozenset[str], StorageClient]]:
    """A client for each action alone, and for all but each."""
    wanted = [actions for action in sorted(ACTIONS) for actions in (frozenset({action}), ACTIONS - {action})]
    with ExitStack() as stack:
        operator = stack.enter_context(StorageClient.from_home(strongroom_server.home))
        made: dict[frozenset[str], StorageClient] = {}
        for actions in wanted:
            key = operator.create_apikey(f"door-{secrets.token_hex(6)}", paths=["/"], actions=sorted(actions))
            stack.callback(operator.revoke_apikey, key.api_id)
            client = StorageClient(socket=strongroom_server.socket, api_id=key.api_id, api_key=key.api_key, retries=0)
            made[actions] = stack.enter_context(client)
        yield made


@pytest.fixture
def scene(strongroom: StorageClient) -> Iterator[Scene]:
    """What a test needs, and nothing of it afterwards that others could list or meet."""
    made = Scene()
    made.furnish(strongroom)
    yield made
    for name in {key.id for key in strongroom.list_apikeys()} & {made.name, made.new}:
        strongroom.revoke_apikey(name)
    for keyset in {each.name for each in strongroom.list_keysets()} & {made.new}:
        strongroom.remove_keyset(keyset)
    for backup in {each.label for each in strongroom.list_backups()} & {made.new}:
        strongroom.forget_backup(backup)


@pytest.mark.parametrize("verb", VERBS)
def test_one_action_is_needed_and_enough(keys: dict[frozenset[str], StorageClient], scene: Scene, verb: str) -> None:
    """A key with every action but the one is refused, and then one with that action alone does it."""
    do, action = VERBS[verb]

    with pytest.raises(Denied):
        do(keys[ACTIONS - {action}], scene)
    do(keys[frozenset({action})], scene)


def test_a_batch_that_is_partly_out_of_reach(
    strongroom: StorageClient, strongroom_server: Server, scene: Scene
) -> None:
    """A key that reads one secret of two is given none of them together, and that one alone."""
    strongroom.set_secret(scene.name, "b", "the value of b")
    key = strongroom.create_apikey(scene.new, paths=[f"/secrets/{scene.name}/a"], actions=["get"])
    with StorageClient(socket=strongroom_server.socket, api_id=key.api_id, api_key=key.api_key) as client:
        for names in ([f"{scene.name}/a", f"{scene.name}/b"], [f"{scene.name}/b", f"{scene.name}/a"]):
            with pytest.raises(Denied):
                client.get_secrets(names)
        assert set(client.get_secrets([f"{scene.name}/a"])) == {f"{scene.name}/a"}


def test_a_key_makes_no_further_key(strongroom: StorageClient, strongroom_server: Server, scene: Scene) -> None:
    """A key that may make keys makes none that does, or reaches, more than itself; and revokes itself never."""
    paths, actions = [f"/secrets/{scene.name}", "/system/access/apikeys"], ["put", "delete"]
    key = strongroom.create_apikey(scene.new, paths=paths, actions=actions)
    with StorageClient(socket=strongroom_server.socket, api_id=key.api_id, api_key=key.api_key) as client:
        for wanted, may in (([paths[0]], ["get"]), (["/secrets"], ["put"]), (["/"], ["put"])):
            with pytest.raises(Denied):
                client.create_apikey(scene.new + "-2", paths=wanted, actions=may)
        with pytest.raises(Invalid, match="revoke itself"):
            client.revoke_apikey(key.api_id)
        client.revoke_apikey(client.create_apikey(scene.new + "-2", paths=[paths[0]], actions=["put"]).api_id)
    assert scene.new in {each.id for each in strongroom.list_apikeys()}
