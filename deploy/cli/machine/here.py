"""This machine, as the commands about machines find it: its key and its store, whether a service runs or not.

The service alone writes its audit log: where it runs, each act is handed over to it before it is done. Where none does,
the command writes a log of its own beside that, whose name and lines say so.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from strongroom.deploy.cli.key import entry
from strongroom.deploy.owner import owner_of, owner_of_store
from strongroom.deploy.settings import Settings, refuse_another_store
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.audit.log import AuditLog, AuditRecord
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.client.hand_over import hand_over
from strongroom.storage_service.errors import ConfigurationError, Fate, KeyFileMissing, Unavailable
from strongroom.storage_service.hardening import harden
from strongroom.storage_service.keyring.ceremonies import offline
from strongroom.storage_service.keyring.ceremonies.enrolment import Enrolment, Opener
from strongroom.storage_service.keyring.ceremonies.files import read_own
from strongroom.storage_service.keyring.ceremonies.machines import MachineKey
from strongroom.storage_service.wire import CommandAct

if TYPE_CHECKING:
    from strongroom.storage_service.backends.base import Backend

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

    try:
        return asyncio.run(opened())
    except Unavailable as error:
        again = (
            (Step("whether it was done is not known", "machine list"),) if error.fate is Fate.UNKNOWN else error.next
        )
        raise Unavailable(f"the store does not answer: {error}", error.fate).advising(*again) from None


def otherwise(settings: Settings, store: "Backend", unlock_file: str | None) -> Opener:
    """Return what opens the keyring by the root key file, or by what people type, or have typed into *unlock_file*."""
    by_typing = unlock_file is not None
    return offline.opener(store, settings.service, lambda: entry.read_text(unlock_file), by_typing=by_typing)


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
        recorder = Recorder(settings)
        stack.push_async_callback(recorder.close)
        store = open_backend(settings.service.store)
        stack.push_async_callback(store.close)
        with owner_of_store(settings.service.store):
            await store.open()
        yield await offline.enrolment(store, settings.service, path, key, recorder.record), store


def _read_key(settings: Settings) -> tuple[Path, MachineKey]:
    path = settings.service.machine_key
    if path is None:
        raise ConfigurationError("'machine_key' names no file")
    try:
        return path, read_own(path)
    except KeyFileMissing as error:
        raise error.advising(Step("make one", "machine config init", {"home": str(settings.home)})) from None


class Recorder:
    """Records what one command is about to do."""

    def __init__(self, settings: Settings) -> None:
        """Take how the service of this home is set up; it may run or not."""
        self._sockets = dict.fromkeys((settings.service.socket, *_said_to_clients(settings.client)))
        self._offline = offline_log(settings.service.audit_log)
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
            action=action.word,
            name=name,
            decision="denied" if decision == "denied" else "allowed",
        )
        for socket in self._sockets:
            if await hand_over(socket, act, self._request):
                return
        if self._log is None:
            log = AuditLog(self._offline)
            with owner_of(self._offline.parent):
                log.open()
            self._log = log
        peer = {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}
        await self._log.append(AuditRecord(self._request, principal, action, name, decision, OFFLINE, peer=peer))

    async def close(self) -> None:
        """Let go of the log."""
        if self._log is not None:
            await self._log.close()


def _said_to_clients(client: Path) -> Iterator[Path]:
    """Yield the socket that *client*, the home's ``client.json``, names: a start may have been told another one."""
    with suppress(ConfigurationError):
        said = ClientFile.read(client)
        if said.socket is not None:
            yield said.socket


def offline_log(audit_log: Path) -> Path:
    """Return where commands record what they do while no service runs: beside *audit_log*, ``audit-offline.log``."""
    return audit_log.with_stem(f"{audit_log.stem}-offline")
