"""CPD-101's own story, told by the commands: an estate in the clear moves in, is proved, scrubbed, and goes back.

The old records and the store of the service share one etcd, as they do on a platform: what is dumped afterwards is all
of it.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.storage_service.client import StorageClient
from tests.deploy.running import Done, Up, clean_environment, strongroom, up
from tests.etcd_server import Etcd, running
from tests.ssh_keys import with_a_word

HOSTS: Final = 60
TOKEN: Final = "canary-token-of-the-container-manager"


def key_of(number: int) -> str:
    """Return the SSH key of a host, as Commissaire kept it."""
    return base64.b64encode(with_a_word(f"canary-{number}-ö").encode()).decode()


def old_estate(etcd: Etcd, network: str = "10.0.0") -> dict[str, bytes]:
    """Put a Commissaire's records of hosts in *network* into *etcd*, and return them."""
    addresses = [f"{network}.{number}" for number in range(HOSTS)]
    records: dict[str, Any] = {
        f"hosts/{address}": {
            "address": address,
            "status": "active",
            "os": "fedora",
            "cpus": 2,
            "memory": 11989228,
            "space": 487652,
            "last_check": "2016-07-29T20:39:50.529454",
            "ssh_priv_key": key_of(number),
            "remote_user": "root",
        }
        for number, address in enumerate(addresses)
    } | {
        "clusters/honeynut": {
            "name": "honeynut",
            "status": "ok",
            "network": "default",
            "hostset": addresses,
            "container_manager": "shift",
        },
        "networks/default": {"name": "default", "type": "flannel_etcd", "options": {}},
        "container_managers/shift": {
            "name": "shift",
            "type": "openshift",
            "options": {"server_url": "https://127.0.0.1:8443", "token": TOKEN},
        },
    }
    values = {f"/commissaire/{name}": json.dumps(record).encode() for name, record in records.items()}
    with etcd.admin() as admin:
        for name, value in values.items():
            admin.put(name, value)
    return values


def told(done: Done, kind: str) -> list[tuple[str, str]]:
    """Return the item and the name of each problem of a kind in a report."""
    return [(each["item"], each.get("name", "")) for each in done.json["problems"] if each["kind"] == kind]


class Story:
    """The two sides, and the command between them."""

    def __init__(self, etcd: Etcd, service: Up, data: Path) -> None:
        self.etcd = etcd
        self.service = service
        self.place = f"etcd://{etcd.members[0].endpoint}"
        self.data = data

    def migrate(self, verb: str, *arguments: object, terminal: bool = False) -> Done:
        """Run a verb on the estate."""
        environ = clean_environment(STRONGROOM_HOME=str(self.service.home), COLUMNS="200")
        estate = ("commissaire", self.place, "-o", f"data_dir={self.data}")
        return strongroom("migrate", verb, *estate, *arguments, environ=environ, terminal=terminal)

    def dump(self) -> bytes:
        """Return a backup of the whole etcd, as its maintenance makes one."""
        with self.etcd.admin() as admin:
            return admin.snapshot()

    def in_the_clear(self) -> int:
        """Return how many of the secrets can be found in a backup."""
        dump = self.dump()
        forms = [[key_of(number).encode(), base64.b64decode(key_of(number))] for number in range(HOSTS)]
        return sum(any(form in dump for form in each) for each in [*forms, [TOKEN.encode()]])

    def old(self) -> dict[str, bytes]:
        """Return what Commissaire's keys hold."""
        with self.etcd.admin() as admin:
            return {key: bytes(kv.value) for key, kv in admin.keys("/commissaire/").items()}

    def new(self) -> dict[str, bytes]:
        """Return what the service's store holds of records."""
        with self.etcd.admin() as admin:
            held = {key: bytes(kv.value) for key, kv in admin.keys("/strongroom/").items()}
        return {key: value for key, value in held.items() if "/system/" not in key and "~receipts" not in key}


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """An etcd with an old estate in it, and a service that keeps its store there, too."""
    with _story(tmp_path) as told:
        yield told


@contextmanager
def _story(directory: Path) -> Iterator[Story]:
    with running(directory) as etcd:
        old_estate(etcd)
        with up(directory / "home", "--store", etcd.url()) as service:
            yield Story(etcd, service, directory / "m0")


def test_an_estate_moves_in_with_proof_and_can_go_back(story: Story) -> None:
    """Planned, moved, proved, scrubbed: no backup holds a key any more; rolled back: each byte is where it was."""
    before = story.old()
    assert story.in_the_clear() == HOSTS + 1

    planned = story.migrate("plan", "--json")
    assert planned.code == 0
    assert planned.json["counts"]["items"] == HOSTS + 3
    assert story.new() == {}

    assert story.migrate("scrub", "--yes").code == 4  # nothing of this estate was ever moved

    applied = story.migrate("apply", "--json")
    assert applied.code == 0
    assert applied.json["counts"]["created"] == 2 * HOSTS + 4
    assert story.migrate("scrub", "--yes").code == 2  # not before it is proved
    again = story.migrate("apply", "--json")
    assert again.code == 0
    assert "created" not in again.json["counts"]

    verified = story.migrate("verify", "--json")
    assert verified.code == 0
    assert verified.json["counts"]["same"] == 2 * HOSTS + 4
    with StorageClient.from_home(story.service.home) as client:
        assert client.get_secret("hosts", "10.0.0.7").reveal()

    scrubbed = story.migrate("scrub", "--yes", "--json")
    counts = scrubbed.json["counts"]
    assert counts["scrubbed"] == HOSTS + 1
    assert story.in_the_clear() == 0
    found = told(scrubbed, "found")
    assert found
    assert all("wal" in place for place, _ in found)  # which no compaction reaches; the advice says what does
    assert scrubbed.code == 2
    assert {json.loads(value).get("ssh_priv_key") for key, value in story.old().items() if "/hosts/" in key} == {None}
    assert story.migrate("verify").code == 0

    rolled_back = story.migrate("rollback", "--yes")
    assert rolled_back.code == 0, rolled_back.out
    assert story.old() == before
    assert story.new() == {}
    assert story.in_the_clear() == HOSTS + 1

    emitted = "".join(done.out + done.err for done in (planned, applied, again, verified, scrubbed, rolled_back))
    assert "canary" not in emitted
    assert not any(key_of(number)[:40] in emitted for number in range(HOSTS))


def test_people_see_tables_and_what_to_do_next(story: Story) -> None:
    """At a terminal each verb shows a table, whether all is well, and the next step in words."""
    plan = story.migrate("plan", terminal=True)
    assert f"{2 * HOSTS + 4}" in plan.out
    assert "would be created" in plan.out
    assert "next: move it" in plan.out
    apply = story.migrate("apply", terminal=True)
    assert "done" in apply.out
    assert "next: compare both sides" in apply.out


def test_two_sides_that_differ_stop_it_until_somebody_decides(story: Story) -> None:
    """A record that the service holds otherwise stops the run with code 5 and its name; a policy decides it."""
    with StorageClient.from_home(story.service.home) as client:
        client.create_container("hosts")
        client.set_secret("hosts", "10.0.0.3", "mine")
    stopped = story.migrate("apply", "--json")
    assert stopped.code == 5
    assert told(stopped, "conflict") == [("/commissaire/hosts/10.0.0.3", "secrets/hosts/10.0.0.3")]

    assert story.migrate("apply", "--on-conflict", "keep", "--json").json["counts"]["kept"] == 1
    replaced = story.migrate("apply", "--on-conflict", "replace", "--json")
    assert replaced.json["counts"]["replaced"] == 1
    assert story.migrate("rollback", "--yes").code == 0
    with StorageClient.from_home(story.service.home) as client:
        assert client.get_secret("hosts", "10.0.0.3").reveal() == "mine"


def test_a_plan_that_was_kept_is_held_to(story: Story, tmp_path: Path) -> None:
    """What changed at the source since a plan does not move with that plan, and is named."""
    file = tmp_path / "plan"
    assert story.migrate("plan", "--out", file).code == 0
    assert "canary" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    with story.etcd.admin() as admin:
        host = json.loads(bytes(admin.keys("/commissaire/hosts/10.0.0.5")["/commissaire/hosts/10.0.0.5"].value))
        admin.put("/commissaire/hosts/10.0.0.5", json.dumps(host | {"cpus": 64}).encode())

    applied = story.migrate("apply", "--plan", file, "--json")

    assert applied.code == 2
    assert told(applied, "unplanned") == [("/commissaire/hosts/10.0.0.5", "")]


def test_a_kept_report_is_checked(story: Story, tmp_path: Path) -> None:
    """A report that verify kept checks out against the run's key, and one that was edited does not."""
    story.migrate("apply")
    file = tmp_path / "report.json"
    assert story.migrate("verify", "--report", file).code == 0
    environ = clean_environment(STRONGROOM_HOME=str(story.service.home))
    assert strongroom("migrate", "check", file, environ=environ).code == 0
    file.write_text(file.read_text().replace('"same": 124', '"same": 125'))
    assert strongroom("migrate", "check", file, environ=environ).code == 2
