"""What commands of this machine tell the service: who is heard, and what is written down."""

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.cli.machine.here import Recorder
from strongroom.deploy.owner import owner_of
from strongroom.deploy.settings import load
from strongroom.models.secret import Secret
from strongroom.storage_service.access.authenticators import OwnUser, authenticate
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.bootstrap import SharedRoot, build
from strongroom.storage_service.client.hand_over import hand_over
from strongroom.storage_service.config import AuthorizerSettings, ServiceSettings
from strongroom.storage_service.errors import AuditUnavailable, Denied, NotAuthenticated
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.wire import ACTS_PATH, CommandAct
from strongroom.storage_service.wire.head import Head
from strongroom.storage_service.wire.http1 import Peer
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import request

OWN = f"service:{os.geteuid()}"
NAME = "system/keyring/machines/0a"
ACT = CommandAct(by="machine:alpha", action="put", name=NAME)
BODY = json.dumps({"by": "machine:alpha", "action": "put", "name": NAME}).encode()


def settings(home: Path) -> ServiceSettings:
    return ServiceSettings(
        socket=home / "s",
        audit_log=home / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
    )


@dataclass
class Rig:
    """A service in this process, and its log."""

    server: Inside
    log: Path

    async def told(self, *lines: str, body: bytes = BODY) -> int:
        """Tell of an act, and return the status."""
        return (
            await self.server.ask(request("POST", ACTS_PATH, *lines, "content-type: application/json", body=body))
        ).status

    def lines(self) -> list[dict[str, Any]]:
        return audit_lines(self.log)


@asynccontextmanager
async def running(home: Path, **more: Any) -> AsyncIterator[Rig]:
    shared = SharedRoot()
    app = StorageApp(replace(settings(home), **more), shared)
    await app.open()
    async with inside(app) as server:
        yield Rig(server, home / "audit.log")
    await app.close()
    shared.close()


@pytest.mark.parametrize(
    "lines", [(), ("custodia-auth-id: own", "custodia-auth-key: wrong"), ("strongroom-on-behalf-of: user:x",)]
)
async def test_a_process_of_the_services_own_user_is_heard(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """It needs no API key, and one that it shows makes no difference: the line is that user's, for the machine."""
    async with running(tmp_path) as rig:
        assert await rig.told(*lines) == 204

        [line] = rig.lines()
        assert (line["principal"], line["for"], line["action"], line["name"], line["decision"]) == (
            *(OWN, "machine:alpha", "put", NAME, "allowed"),
        )
        assert line["peer"] == {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}


async def test_what_came_over_the_network_is_not_heard(tmp_path: Path) -> None:
    """What a proxy forwards is refused, whoever shows which key, and the line is no act's."""
    async with running(tmp_path) as rig:
        assert await rig.told("forwarded: for=192.0.2.1", "custodia-auth-id: own", "custodia-auth-key: own-key") == 401
        assert [(line["principal"], line["name"], line["decision"]) for line in rig.lines()] == [
            ("unknown", ACTS_PATH, "denied")
        ]


async def test_root_is_heard_too() -> None:
    """Under systemd root runs the commands of a service that is another user; who forwards for somebody is nobody."""
    who = OwnUser(1000)

    assert (await authenticate((who,), Head(), Peer(1, 0, 0))).id == "service:0"
    with pytest.raises(Denied):
        await authenticate((who,), Head(), Peer(1, 1001, 1000))
    with pytest.raises(NotAuthenticated):
        await authenticate((who,), Head(forwarded="for=192.0.2.1"), Peer(1, 0, 0))


@pytest.fixture
def the_services() -> Iterator[Path]:
    """A directory of the service's: another user's, where root runs this; everybody may pass through to it."""
    base = Path(tempfile.mkdtemp(prefix="sr"))
    base.chmod(0o711)
    place = base / "log"
    place.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(place, 65534, 65534)
    yield place
    shutil.rmtree(base)


async def record_offline(log: Path) -> None:
    """Record an act as a command does, beside *log*, with no service running."""
    environ = {"STRONGROOM_AUDIT_LOG": str(log), "STRONGROOM_SOCKET": str(log.parent / "nobody.sock")}
    recorder = Recorder(load(environ=environ, home=log.parent, without_key=True))
    try:
        await recorder.record("machine:alpha", Action.PUT, NAME, "allowed")
    finally:
        await recorder.close()


async def test_roots_offline_log_is_the_services(the_services: Path) -> None:
    """A log that root's command begins beside the service's is whose the directory is, so that it can be rotated."""
    await record_offline(the_services / "audit.log")

    made, place = (the_services / "audit-offline.log").stat(), the_services.stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (place.st_uid, place.st_gid, 0o600)
    assert (os.geteuid(), os.getegid()) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("there", [True, False])
async def test_a_link_in_the_services_directory_gives_away_nothing(the_services: Path, *, there: bool) -> None:
    """Where the service's user put a link to what only root may write, root's command makes and gives nothing."""
    roots = Path(tempfile.mkdtemp(prefix="sr"))
    target = roots / "preload"
    if there:
        target.touch(0o600)
    if os.geteuid() == 0:
        (the_services / "audit-offline.log").symlink_to(target)
        with pytest.raises(AuditUnavailable):
            await record_offline(the_services / "audit.log")
    else:  # without root, a directory that nobody may write stands for what is not the user's
        roots.chmod(0o500)
        (the_services / "audit-offline.log").symlink_to(roots / "preload" / "x")
        with pytest.raises(AuditUnavailable):
            await record_offline(the_services / "audit.log")

    assert (target.exists(), there and (target.stat().st_size, target.stat().st_uid)) == (
        there,
        there and (0, os.geteuid()),
    )
    roots.chmod(0o700)
    shutil.rmtree(roots)


async def test_another_users_process_is_not_heard(tmp_path: Path) -> None:
    """It is refused with the service's own API key, too: what is told is the service's user's to tell."""
    shared = SharedRoot()
    parts = await build(settings(tmp_path), shared)
    head, other = Head(None, "own", "own-key"), Peer(1, os.geteuid() + 1, os.getegid())

    with pytest.raises(Denied):
        await authenticate(parts.own_user, head, other)
    with pytest.raises(NotAuthenticated):
        await authenticate(parts.own_user, head, None)
    assert (await authenticate(parts.own_user, head, other._replace(uid=os.geteuid()))).id == OWN
    await parts.close()
    shared.close()


@pytest.mark.parametrize(
    "body",
    [
        {"by": "user:alpha"},
        {"by": "machine:"},
        {"by": "machine:a b"},
        {"by": "machine:" + "a" * 65},
        {"by": "apikey:own"},
        {"name": "../x"},
        {"name": ""},
        {"name": "secrets/db/password"},
        {"name": "system/keyring/machines"},
        {"action": "revoke"},
        {"decision": "failed"},
        {"more": "x"},
    ],
)
async def test_what_is_no_act_of_a_machine(tmp_path: Path, body: dict[str, str]) -> None:
    """It is refused, and nothing of it is in the log: nobody is named there who is no machine."""
    async with running(tmp_path) as rig:
        assert await rig.told(body=json.dumps(json.loads(BODY) | body).encode()) == 400
        assert [(line["principal"], line["name"], line["decision"], line.get("for")) for line in rig.lines()] == [
            (OWN, ACTS_PATH, "refused", None)
        ]


async def test_what_the_service_allows_by_paths_is_nothing_to_a_command(tmp_path: Path) -> None:
    """A service whose callers have a container each records what its own user's command does elsewhere."""
    spaces = AuthorizerSettings(handler="UserNameSpace", options={"path": "/"})
    async with running(tmp_path, authorizers=(spaces,)) as rig:
        assert await rig.told() == 204
        assert [line["decision"] for line in rig.lines()] == ["allowed"]


@pytest.mark.parametrize("denied", [False, True])
async def test_whoever_has_a_limit_tells_nothing(tmp_path: Path, *, denied: bool) -> None:
    """A caller who does not reach everything is refused, and the line is his refusal."""
    shared = SharedRoot()
    parts = await build(settings(tmp_path), shared)
    caller = Caller(Principal("apikey:narrow", ("/secrets", "/system")), "request-1")

    with pytest.raises(Denied):
        await parts.audit.take_act(caller, "machine:alpha", Action.PUT, NAME, denied=denied)

    [line] = audit_lines(tmp_path / "audit.log")
    assert (line["principal"], line["decision"], line.get("reason")) == ("apikey:narrow", "denied", None)
    await parts.close()
    shared.close()


async def test_a_refusal_of_the_commands(tmp_path: Path) -> None:
    """What the command refused is one line that says so."""
    async with running(tmp_path) as rig:
        assert await rig.told(body=json.dumps(json.loads(BODY) | {"decision": "denied"}).encode()) == 204

        [line] = rig.lines()
        assert (line["principal"], line["for"], line["decision"]) == (OWN, "machine:alpha", "denied")
        assert line["reason"] == "the command refused it"


@pytest.mark.parametrize("left", [False, True], ids=["no socket", "a socket that was left"])
async def test_nobody_listens(tmp_path: Path, *, left: bool) -> None:
    """Who hands over is told that nobody took it, so that it can be written down elsewhere."""
    if left:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(tmp_path / "s"))

    assert await hand_over(tmp_path / "s", ACT, "0123456789abcdef") is False


async def test_somebody_listens_and_says_nothing(tmp_path: Path) -> None:
    """Nothing is done, for who listens there may have recorded it or not."""

    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(leave, tmp_path / "s"):
        with pytest.raises(AuditUnavailable, match="nothing was done"):
            await hand_over(tmp_path / "s", ACT, "0123456789abcdef")


def test_roots_directory_behind_a_users_link_is_the_users(the_services: Path) -> None:
    """What lies in another user's directory is opened with that user's rights, though a link there leads to root's."""
    roots = Path(tempfile.mkdtemp(prefix="sr"))
    (the_services / "data").symlink_to(roots)

    with owner_of(the_services / "data"):
        assert os.geteuid() == the_services.stat().st_uid if os.getuid() == 0 else os.getuid()
    assert os.geteuid() == os.getuid()
    roots.rmdir()
