"""The example of an etcd member, run as it stands but for names and paths, and closed with the script beside it."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.errors import ConfigurationError
from tests.deploy_units.programs import ROOT, listens, program, running
from tests.etcd_server import free_port

EXAMPLE = ROOT / "deploy/etcd"


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run one member with the example's file, and `users.sh` against it; yield how etcdctl reaches it."""
    home = tmp_path_factory.mktemp("example")
    ca = trustme.CA()
    for kind in ("server", "peer"):
        cert = ca.issue_cert("localhost", "127.0.0.1")
        cert.cert_chain_pems[0].write_to_path(home / f"{kind}.pem")
        cert.private_key_pem.write_to_path(home / f"{kind}-key.pem")
    for name in ("ca.pem", "peer-ca.pem"):
        ca.cert_pem.write_to_path(home / name)
    client, peer = free_port(), free_port()
    text = (EXAMPLE / "etcd.yaml").read_text()
    text = re.sub(r"^(initial-cluster): .*$", rf"\1: etcd-1=https://127.0.0.1:{peer}", text, flags=re.MULTILINE)
    text = re.sub(r"https://(0\.0\.0\.0|etcd-1):2379", f"https://127.0.0.1:{client}", text)
    text = re.sub(r"https://(0\.0\.0\.0|etcd-1):2380", f"https://127.0.0.1:{peer}", text)
    text = text.replace("/etc/etcd/", f"{home}/").replace("/var/lib/etcd", f"{home}/data")
    (home / "etcd.yaml").write_text(text)
    for user in ("root", "strongroom"):
        (home / f"{user}.password").write_text(f"password-of-{user}\n")
    environ = {
        **os.environ,
        "PATH": f"{Path(program('etcdctl')).parent}:{os.environ['PATH']}",
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": f"https://127.0.0.1:{client}",
        "ETCDCTL_CACERT": str(home / "ca.pem"),
        "ROOT_PASSWORD_FILE": str(home / "root.password"),
        "STRONGROOM_PASSWORD_FILE": str(home / "strongroom.password"),
    }
    with running([program("etcd"), "--config-file", home / "etcd.yaml"], home / "log", lambda: listens(client)):
        subprocess.run([EXAMPLE / "users.sh"], env=environ, check=True, capture_output=True)
        yield environ


def url(member: dict[str, str], user: str, password_file: str, prefix: str = "strongroom") -> str:
    host = member["ETCDCTL_ENDPOINTS"].removeprefix("https://")
    return f"etcd://{user}@{host}/{prefix}?cacert={member['ETCDCTL_CACERT']}&password_file={password_file}"


async def test_strongroom_works_on_it(member: dict[str, str]) -> None:
    """Strongroom's own user reads and writes below the prefix, over TLS."""
    backend = open_backend(url(member, "strongroom", member["STRONGROOM_PASSWORD_FILE"]))
    await backend.open()
    try:
        await backend.commit([Put("hosts/10.0.0.7", b"{}")])

        entry = await backend.get("hosts/10.0.0.7")
    finally:
        await backend.close()

    assert entry is not None
    assert entry.value == b"{}"


async def test_a_wrong_password_is_refused(member: dict[str, str]) -> None:
    """Who does not know the password does not get in."""
    backend = open_backend(url(member, "strongroom", member["ROOT_PASSWORD_FILE"]))
    try:
        with pytest.raises(ConfigurationError):
            await backend.open()
    finally:
        await backend.close()


@pytest.mark.parametrize(
    ("credentials", "key"),
    [
        pytest.param([], "/strongroom/x", id="a stranger"),
        pytest.param(["--user", "strongroom:password-of-strongroom"], "/other/x", id="Strongroom beyond its prefix"),
    ],
)
def test_others_are_kept_out(member: dict[str, str], credentials: list[str], key: str) -> None:
    """Nobody reads without a password, and Strongroom's user reaches its own prefix and nothing else."""
    command = [program("etcdctl"), *credentials, "get", key]

    done = subprocess.run(command, env=member, check=False, capture_output=True)

    assert done.returncode != 0


def test_history_is_compacted() -> None:
    """The example switches automatic compaction on, so that replaced values do not stay for ever."""
    text = (EXAMPLE / "etcd.yaml").read_text()

    assert re.search(r"^auto-compaction-retention: [1-9]", text, re.MULTILINE)
