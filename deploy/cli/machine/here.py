"""This machine, as the commands about machines find it: its key and its store, whether a service runs or not.

The service alone writes its audit log: where it runs, each act is handed over to it before it is done. Where none does,
the command writes a log of its own beside that, whose name and lines say so.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from strongroom.deploy.cli.key import entry
from strongroom.deploy.settings import Settings, refuse_another_store
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.audit.log import AuditLog, AuditRecord
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.client.hand_over import hand_over
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import ConfigurationError, KeyFileMissing, StartupError, WrongKey
from strongroom.storage_service.hardening import harden
from strongroom.storage_service.keyring.ceremonies.enrolment import Enrolment, Opener
from strongroom.storage_service.keyring.machines.endorsement import PinnedRoots
from strongroom.storage_service.keyring.machines.key import MachineKey, read_private
from strongroom.storage_service.keyring.machines.stored import documents_in
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.wire import CommandAct

if TYPE_CHECKING:
    from strongroom.storage_service.backends.base import Backend
    from strongroom.storage_service.keyring.rootkey import RootKey
    from strongroom.storage_service.keyring.stored import Sealed

OFFLINE: Final = "recorded by the command itself: no service ran"

T = TypeVar("T")


def run(settings: Settings, act: Callable[[Enrolment, "Backend"], Awaitable[T]]) -> T:
    """Do something on this machine's store, and return what that gave.

    Raises:
        ConfigurationError: there is no home, it is another user's, or its store is in memory.
        KeyFileMissing, KeyFileUnusable: this machine has no key, or one that is open to others.
        Unavailable, AuditUnavailable: the store or the audit log cannot be reached.
        and whatever *act* raises.
    """
    _check(settings)
    harden()

    async def opened() -> T:
        async with _here(settings) as (enrolment, store):
            return await act(enrolment, store)

    return asyncio.run(opened())


def otherwise(settings: Settings, store: "Backend", unlock_file: str | None) -> Opener:
    """Return what opens the keyring by the root key file, or by what people type, or have typed into *unlock_file*."""

    async def open_root(sealed: "Sealed") -> "RootKey":
        if unlock_file is None:
            root = await _by_file(settings, store, sealed.root)
            if root is not None:
                return root
        # It blocks, and nothing else waits for this loop.
        text = entry.read(unlock_file, entry.ask_for_enough)
        candidate = unlock_keys.parse(text.reveal())
        held = {each.recipient: each for each in await wraps.wraps_of(store, sealed.root)}
        for key in candidate.keys:
            if key.kid in held:
                return wraps.unwrap(held[key.kid], key)
        raise WrongKey("what was given opens nothing here")

    return open_root


async def _by_file(settings: Settings, store: "Backend", root: str) -> "RootKey | None":
    """Return the root key, opened by the root key file; None where somebody has to type.

    Raises:
        StartupError: the file does not open it, and nobody could.
        WrongKey: only machines open it.
    """
    failed: StartupError | None = None
    try:
        opened = await KeyFile(settings.service.root_key).open(store, root)
    except StartupError as error:
        opened, failed = None, error
    if opened is not None or any(each.kind in wraps.HUMAN for each in await wraps.wraps_of(store, root)):
        return opened
    raise failed or WrongKey("the keyring is opened by machines alone, and this is none of them")


def _check(settings: Settings) -> None:
    if settings.service.store.startswith("memory:"):
        raise ConfigurationError("the store is in memory, where no other process finds it")
    if not settings.home.is_dir():
        raise ConfigurationError(f"there is no home at {settings.home}").advising(
            Step("make it", "machine config init", {"home": str(settings.home)})
        )
    if settings.home.stat().st_uid != os.geteuid():
        raise ConfigurationError(f"{settings.home} belongs to another user; run this as that user")


@asynccontextmanager
async def _here(settings: Settings) -> "AsyncIterator[tuple[Enrolment, Backend]]":
    refuse_another_store(settings)
    path, key = await asyncio.to_thread(_read_key, settings)
    async with AsyncExitStack() as stack:
        recorder = Recorder(settings.service)
        stack.push_async_callback(recorder.close)
        store = open_backend(settings.service.store)
        stack.push_async_callback(store.close)
        await store.open()
        documents = documents_in(store, settings.service.machine_documents)
        seen = Seen(SharedRoot(), settings.service.keyring_seen)
        await seen.load()
        yield Enrolment(store, documents, key, recorder.record, knows=PinnedRoots(path), seen=seen), store


def _read_key(settings: Settings) -> tuple[Path, MachineKey]:
    path = settings.service.machine_key
    if path is None:
        raise ConfigurationError("'machine_key' names no file")
    try:
        return path, read_private(path)
    except KeyFileMissing as error:
        raise error.advising(Step("make one", "machine config init", {"home": str(settings.home)})) from None


class Recorder:
    """Records what one command is about to do."""

    def __init__(self, service: ServiceSettings) -> None:
        """Take how the service of this home is set up; it may run or not."""
        self._socket = service.socket
        self._offline = offline_log(service.audit_log)
        self._request = secrets.token_hex(8)
        self._log: AuditLog | None = None

    async def record(self, principal: str, action: Action, name: str, decision: str) -> None:
        """Write it down, or have it written down.

        Raises:
            AuditUnavailable: neither can be.
            ServiceError: the service refuses to.
        """
        act = CommandAct(
            by=principal,
            action=action.value,
            name=name,
            decision="denied" if decision == "denied" else "allowed",
        )
        if await hand_over(self._socket, act, self._request):
            return
        if self._log is None:
            log = AuditLog(self._offline)
            log.open()
            self._log = log
        peer = {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}
        await self._log.append(AuditRecord(self._request, principal, action, name, decision, OFFLINE, peer=peer))

    async def close(self) -> None:
        """Let go of the log."""
        if self._log is not None:
            await self._log.close()


def offline_log(audit_log: Path) -> Path:
    """Return where commands record what they do while no service runs: beside *audit_log*, ``audit-offline.log``."""
    return audit_log.with_stem(f"{audit_log.stem}-offline")
