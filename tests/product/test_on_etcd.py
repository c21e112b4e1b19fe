"""The whole product on etcd: shared between machines, without a member, without the store."""

import shutil
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

from strongroom.storage_service import wire
from tests.deploy.running import Done, eventually, strongroom, up
from tests.etcd_server import Etcd, running
from tests.product.test_faults import put, refused, through_proxy


def test_two_machines_share_a_store(etcd: Etcd, tmp_path: Path) -> None:
    """With a copy of secrets.key a second machine serves the same secrets; without one it is refused."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    url = etcd.url("/shared")
    with ExitStack() as stack:
        first = stack.enter_context(through_proxy(stack.enter_context(up(one, "--store", url))))
        first.post("/box/")
        put(first, "box/a", "aaa")
        two.mkdir(mode=0o700)
        shutil.copy(one / "secrets.key", two / "secrets.key")
        second = stack.enter_context(through_proxy(stack.enter_context(up(two, "--store", url))))

        assert second.get("/box/a", headers={"Accept": wire.OCTET_STREAM}).text == "aaa"
        assert put(second, "box/a", "bbb").status_code == 409
        assert second.delete("/box/a").status_code == 204
        assert first.get("/box/a").status_code == 404
        assert "secrets.key" in refused(three, "--store", url)
        assert not (three / "secrets.key").exists()


def test_the_store_holds_ciphertext_in_etcd(etcd: Etcd, tmp_path: Path) -> None:
    """What etcd has of a secret is its name and a JWE."""
    with up(tmp_path / "home", "--store", etcd.url("/cipher")) as service, through_proxy(service) as client:
        client.post("/box/")
        put(client, "box/a", "canary-in-the-clear")

        with etcd.admin() as admin:
            held = {key: bytes(entry.value) for key, entry in admin.keys("/cipher").items()}

    assert held["/cipher/secrets/box/a"].startswith(b"eyJ")
    assert not any(b"canary" in value or b"Y2FuYXJ5" in value for value in held.values())


def test_the_store_goes_and_comes_back(tmp_path: Path) -> None:
    """Without etcd: 503 with a fate, nothing revealed; when it is back: as if nothing had been."""
    with (
        running(tmp_path) as etcd,
        up(tmp_path / "home", "--store", etcd.url()) as service,
        through_proxy(service) as client,
    ):
        client.post("/box/")
        put(client, "box/a", "aaa")
        etcd.members[0].kill()

        read, written = client.get("/box/a", timeout=30), put(client, "box/b", "bbb")
        etcd.members[0].restart()

        eventually(lambda: client.get("/box/a").status_code == 200)
        assert [read.status_code, written.status_code] == [503, 503]
        assert read.headers["retry-after"] == "1"
        assert written.json()["fate"] in ("not-applied", "unknown")
        assert put(client, "box/c", "ccc").status_code == 201


def test_the_command_blames_the_store_that_is_away(tmp_path: Path) -> None:
    """Where the store does not answer, the service that says so is not to be started; where nobody listens, it is."""
    with running(tmp_path) as etcd, up(tmp_path / "home", "--store", etcd.url()) as service:
        strongroom("--home", service.home, "secret", "put", "--parents", "box/a", stdin=b"a")
        etcd.members[0].kill()

        away = strongroom("--home", service.home, "secret", "get", "box/a")

        assert away == Done(2, "", "strongroom: the store does not answer; the log of the service says more\n")
    gone = strongroom("--home", tmp_path / "home", "secret", "get", "box/a")
    assert (gone.code, "see that it runs: strongroom " in gone.err) == (2, True), gone.err


def test_a_member_of_three_dies_under_load(tmp_path: Path) -> None:
    """While a member is killed and gone, writes go on, and every acknowledged one is there afterwards."""
    acknowledged: list[int] = []
    numbers = iter(range(400))
    lock = threading.Lock()
    with running(tmp_path, members=3) as etcd, up(tmp_path / "home", "--store", etcd.url()) as service:
        leader = etcd.leader()

        def write() -> None:
            with through_proxy(service) as client:
                while True:
                    with lock:
                        number = next(numbers, None)
                        if number == 100:
                            leader.signal(signal.SIGKILL)
                    if number is None:
                        return
                    if put(client, f"box/{number}", str(number)).status_code == 201:
                        acknowledged.append(number)

        with through_proxy(service) as client:
            client.post("/box/")
            threads = [threading.Thread(target=write) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            listed = {int(name) for name in client.get("/box/", timeout=30).json()}

    assert set(acknowledged) <= listed
    assert len([number for number in acknowledged if number > 200]) > 100
