"""What who writes the store, or a copy of it, can do unseen: as the threat model says, no more and no less."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from strongroom.models import ContainerManagerConfig, Host
from strongroom.models.names import APIKEYS
from strongroom.models.secret import Secret
from strongroom.storage_service.access.authenticators import authenticate
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.directory import spent
from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backup.restoring import restore
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import Denied, NotFound
from strongroom.storage_service.keyring import rootkey, stored
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.services.records import Reference
from strongroom.storage_service.wire.head import Head
from tests.backup.copies import checked, copied, fill, held, rewritten, rows_of

OPERATOR: Final = Caller(Principal("apikey:operator"), "request-1")
SECRET: Final = "secrets/db/password"


@dataclass
class Rig:
    """A service, and the store beneath it, which somebody else writes as well."""

    parts: Parts
    store: Backend
    root_key: Path
    restarted: Callable[[], Awaitable[Parts]]

    async def row(self, name: str) -> bytes:
        """Return what lies under *name*."""
        entry = await self.store.get(name)
        assert entry is not None
        return entry.value

    async def plant(self, name: str, value: bytes) -> None:
        """Write past the service."""
        await self.store.commit([Put(name, value)])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One with a container and a secret in it."""
    store, shared = MemoryBackend(), SharedRoot()
    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
    )
    parts = await build(settings, shared, lambda _: store)
    await parts.secrets.create_container(OPERATOR, "secrets/db/")
    await parts.secrets.put(OPERATOR, SECRET, b"old", 0)
    async with AsyncExitStack() as later:

        async def restarted() -> Parts:
            await later.aclose()
            again = SharedRoot()
            later.callback(again.close)
            other = await build(settings, again, lambda _: store)
            later.push_async_callback(other.close)
            return other

        later.callback(shared.close)
        later.push_async_callback(parts.close)
        yield Rig(parts, store, settings.root_key, restarted)


async def test_an_older_value_of_the_same_name_is_read_as_if_it_were_the_newest(rig: Rig) -> None:
    """A value says where it belongs and not when, so one that was replaced and is put back opens."""
    old = await rig.row(SECRET)
    entry = await rig.parts.secrets.get(OPERATOR, SECRET)
    await rig.parts.secrets.put(OPERATOR, SECRET, b"new", entry.revision)

    await rig.plant(SECRET, old)

    assert (await rig.parts.secrets.get(OPERATOR, SECRET)).value == b"old"


async def test_a_secret_that_was_deleted_in_the_store_is_not_found(rig: Rig) -> None:
    """Who reads it is told that there is none, as if it had been deleted by the service."""
    await rig.store.commit([Delete(SECRET)])

    with pytest.raises(NotFound):
        await rig.parts.secrets.get(OPERATOR, SECRET)


async def test_the_record_of_a_revoked_api_key_opens_when_it_is_put_back(rig: Rig) -> None:
    """A revoked key lets its holder in again after a restart, where the mark that its id is spent is gone, too."""
    key, _ = await rig.parts.access.create_key(OPERATOR, "ci", ["/secrets/db"], ["get"])
    shown = Head(None, "ci", key.reveal())
    record = await rig.row(APIKEYS + "ci")
    await rig.parts.access.revoke_key(OPERATOR, "ci")
    with pytest.raises(Denied):
        await authenticate(rig.parts.authenticators, shown, None)

    await rig.plant(APIKEYS + "ci", record)

    with pytest.raises(Denied):
        await authenticate(rig.parts.authenticators, shown, None)
    with pytest.raises(Denied):
        await authenticate((await rig.restarted()).authenticators, shown, None)
    await rig.store.commit([Delete(spent("apikeys", "ci"))])
    assert (await authenticate((await rig.restarted()).authenticators, shown, None)).id == "apikey:ci"


async def test_plain_records_and_containers_are_whoevers_who_writes_the_store(rig: Rig) -> None:
    """A planted host and an edited address of a container manager are served as they lie there, markers as well."""
    parts = rig.parts
    manager = ContainerManagerConfig.new(name="oc", options={"server_url": "https://oc.example"})
    await parts.records.save(OPERATOR, [Host.new(address="10.0.0.7"), manager], [None, None])
    row = json.loads(await rig.row(manager.record_name))

    row["options"]["server_url"] = "https://elsewhere.example"
    await rig.plant(manager.record_name, json.dumps(row).encode())
    await rig.plant("hosts/192.0.2.66", (await rig.row("hosts/10.0.0.7")).replace(b"10.0.0.7", b"192.0.2.66"))
    await rig.plant("secrets/planted/", b"")

    (served,) = await parts.records.fetch(OPERATOR, ContainerManagerConfig, [Reference("oc")])
    assert served is not None
    assert isinstance(served.record, ContainerManagerConfig)
    assert served.record.options == {"server_url": "https://elsewhere.example"}
    (host,) = await parts.records.fetch(OPERATOR, Host, [Reference("192.0.2.66")])
    assert host is not None
    assert await parts.secrets.list_container(OPERATOR, "secrets/planted/") == []


async def test_a_plain_record_in_a_backup_can_be_edited() -> None:
    """Who edits a plain record of a backup, leaves one out and counts the checksums anew is not found out."""
    source, target = MemoryBackend(), MemoryBackend()
    await source.open()
    await target.open()
    await fill(source)
    rows = rows_of(await copied(source))
    rows["hosts/10.0.0.7"] = rows["hosts/10.0.0.7"].replace(b"}", b',"remote_user":"somebody"}')
    del rows["networks/odd"]
    edited = rewritten(await copied(source), rows.items())

    found = checked(edited)
    edited.seek(0)
    await restore(edited, target, found, lambda _: None)

    assert await held(target) == rows


async def test_the_key_file_alone_opens_nothing(rig: Rig) -> None:
    """It opens a wrap of the root key, which lies in the store; without that it holds no key of anything."""
    sealed = await stored.read(rig.store)
    assert sealed is not None
    root = await KeyFile(rig.root_key).open(rig.store, sealed.root)
    assert root is not None
    document = stored.open_document(sealed, root)
    bare = MemoryBackend()
    await bare.open()

    assert await KeyFile(rig.root_key).open(bare, sealed.root) is None
    in_file = rootkey.read(rig.root_key).reveal()
    keys = [key for keyset in document.keysets.values() for generation in keyset.generations for key in generation.keys]
    assert in_file not in [root.reveal(), *keys]
