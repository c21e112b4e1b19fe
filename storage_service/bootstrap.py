"""The one place where concrete classes meet: settings become the parts of a running service."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.apikeys import decode as decode_apikey
from strongroom.storage_service.access.authenticators import (
    Authenticator,
    Basic,
    Bearer,
    Certificate,
    OwnUser,
    Process,
    Proxy,
)
from strongroom.storage_service.access.directory import Directory
from strongroom.storage_service.access.engines.panel import Panel
from strongroom.storage_service.access.holders import Holders
from strongroom.storage_service.access.limits import Slowdown
from strongroom.storage_service.access.logins import Logins, decode_revocation, desk
from strongroom.storage_service.access.networks import NetworkRules
from strongroom.storage_service.access.paths import Reach
from strongroom.storage_service.access.principals import Principals
from strongroom.storage_service.access.registry import make_authenticator, make_authorizer, make_engine
from strongroom.storage_service.access.rulebook import RuleBook
from strongroom.storage_service.access.ruling import Ruling
from strongroom.storage_service.access.sign_ins import SignIns
from strongroom.storage_service.access.users_file import UsersFile
from strongroom.storage_service.access.uses import Uses
from strongroom.storage_service.audit.decisions import Decisions
from strongroom.storage_service.audit.log import AuditLog
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.read_through import OldPlace, OldPlaces, ReadThroughBackend
from strongroom.storage_service.backends.url import as_said, masked
from strongroom.storage_service.backup.marker import refuse_half
from strongroom.storage_service.config import (
    AuthenticatorSettings,
    EngineSettings,
    ReadThroughSettings,
    ServiceSettings,
)
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.handlers import Handler
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines.stored import documents_in
from strongroom.storage_service.keyring.opening.unattended import KeyFile, MachineKeyFile, Way
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from strongroom.storage_service.keyring.signing import SigningKeys
from strongroom.storage_service.meter import STORAGE, Meter
from strongroom.storage_service.private_file import PrivateFile
from strongroom.storage_service.record_of_store import RecordOfStore, moving_to
from strongroom.storage_service.routing import build as build_routing
from strongroom.storage_service.services.access import AccessService
from strongroom.storage_service.services.audit import AuditService
from strongroom.storage_service.services.bulk import BulkService
from strongroom.storage_service.services.door import Door
from strongroom.storage_service.services.health import HealthService
from strongroom.storage_service.services.keys import KeyService
from strongroom.storage_service.services.large_answers import LargeAnswers
from strongroom.storage_service.services.logins import LoginService
from strongroom.storage_service.services.principals import PrincipalService
from strongroom.storage_service.services.records import RecordService
from strongroom.storage_service.services.rules import RuleService
from strongroom.storage_service.services.secrets import SecretService
from strongroom.storage_service.services.telemetry import TelemetryService
from strongroom.storage_service.wire import head

__all__ = ["Parts", "SharedRoot", "build"]

_TOKEN_FILE: Final = PrivateFile("token file", "have the engine give another token")
_MAX_TOKEN: Final = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """A running service: its one door, the services behind that, and who tells its face who asks."""

    door: Door
    secrets: SecretService
    records: RecordService
    access: AccessService
    logins: LoginService
    principals: PrincipalService
    rules: RuleService
    keys: KeyService
    bulk: BulkService
    audit: AuditService
    health: HealthService
    telemetry: TelemetryService
    meter: Meter
    authenticators: tuple[Authenticator, ...]
    process: Process  # whose a process is that shows nothing
    own_user: tuple[Authenticator, ...]  # by which commands of this machine are known, as the kernel tells it
    proxy: Proxy
    networks: NetworkRules  # who may come from where
    slow: Slowdown  # keys and setup codes that were wrong again and again
    head_fields: head.Table
    closing: contextlib.AsyncExitStack

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""
        await self.closing.aclose()


def no_old_place(settings: ReadThroughSettings) -> OldPlace:
    """Refuse to read through: what asks old places is not the service's own, and nobody gave it.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(f"read_through: nothing here can ask {settings.source!r}")


async def build(  # noqa: PLR0915  # it is one list of parts
    settings: ServiceSettings,
    shared: SharedRoot,
    opener: Callable[[str], Backend] = open_backend,
    old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
    renew: Callable[[], None] | None = None,
    *,
    meter: Meter | None = None,
) -> Parts:
    """Open store, keys and audit log, and put the service together.

    Called on the event loop that serves, after any fork; *shared* was made before it, for all workers of the service.
    If it raises, nothing stays open. *opener* makes the store of a URL, *old_places* what asks an old place;
    *renew* lets new workers take the place of all of the service; *meter* is what they count in.

    Raises:
        ConfigurationError, KeyFileMissing, WrongRootKey: what the operator must mend.
        Unavailable, AuditUnavailable: the store or the audit log cannot be reached.
    """
    meter = meter or Meter(STORAGE)
    record = RecordOfStore(settings.store_record) if settings.store_record else None
    if record is not None:
        record.refuse_another(settings.store)  # before anything is opened, or made
    async with contextlib.AsyncExitStack() as stack:
        audit = AuditLog(settings.audit_log, on_failure=meter.audit_failed)
        audit.open()
        stack.push_async_callback(audit.close)
        store = opener(settings.store)
        stack.push_async_callback(store.close)
        await store.open()
        await refuse_half(store)
        known = record.read() if record is not None else None
        await _refuse_empty(store, known or settings.beside, settings.store)
        file = KeyFile(settings.root_key)
        documents = documents_in(store, settings.machine_documents)
        machine = None if settings.machine_key is None else MachineKeyFile(settings.machine_key, documents)
        ways: list[Way] = [file] if machine is None else [file, machine]
        holder = Holder(
            store, shared, ways, autogen=file if settings.autogen_root_key else None, seen=settings.keyring_seen
        )
        stack.push_async_callback(holder.close)
        encrypted = EncryptedBackend(store, holder)
        ruling = Ruling()
        kinds = {names.APIKEYS: decode_apikey, names.REVOKED: decode_revocation}
        directory = Directory(store, encrypted, kinds, ruling.take)
        stack.push_async_callback(directory.close)
        uses = Uses(encrypted)
        stack.push_async_callback(uses.close)
        apikeys = ApiKeys(directory, (settings.api_id, settings.api_key), proxy=settings.proxy, uses=uses)
        logins = _logins(directory, store, encrypted, holder, uses)
        principals = Principals(directory, reserved=apikeys.configured)
        rulebook = RuleBook(directory, store, encrypted, principals)
        file_of_users = None if settings.users_file is None else UsersFile(settings.users_file)
        sign_ins = SignIns(directory, principals.replace_credential, file_of_users)
        stack.push_async_callback(sign_ins.close)
        holders = Holders(directory)

        def opened() -> None:
            directory.learn()
            if record is not None and not settings.store.startswith("memory:"):
                record.try_to_keep(settings.store)

        holder.on_open = opened
        await holder.open()
        if holder.state is State.LOCKED and record is not None:
            record.try_to_keep(settings.store)
        old = OldPlaces(map(old_places, settings.read_through))
        stack.push_async_callback(old.close)
        await old.open()
        secrets = ReadThroughBackend(encrypted, old) if settings.read_through else encrypted
        routing = build_routing(
            settings.storage_handlers,
            secrets=Handler(secrets, secret=True),
            store=settings.store,
            backend=store,
        )
        for backend in routing.backends:
            stack.push_async_callback(backend.close)
            await backend.open()
        engines = _engines(settings.engines)
        if engines is not None:
            stack.callback(engines.close)
        networks = NetworkRules(settings.network_rules)
        from_where = (networks,) if settings.network_rules else ()
        deciders = (Reach(), *from_where, ruling, *map(make_authorizer, settings.authorizers))
        door = Door(deciders, audit, engines=engines)
        stack.push_async_callback(door.close)
        large_answers = LargeAnswers()
        proxy = Proxy(settings.proxy)
        keys = KeyService(door, store, holder, file, documents, machine=machine, renew=renew)
        scheme, slow = settings.store.partition(":")[0], Slowdown()
        stores = (store, *routing.backends)
        health = HealthService(door, keys, stores, scheme, old, ready_when_locked=settings.ready_when_locked)
        return Parts(
            door=door,
            secrets=SecretService(door, secrets, large_answers),
            records=RecordService(door, routing, large_answers),
            access=AccessService(door, apikeys),
            logins=LoginService(door, logins, settings.addresses),
            principals=PrincipalService(door, principals, slow, uses),
            rules=RuleService(door, rulebook, ruling, Decisions(settings.audit_log)),
            keys=keys,
            # Of the store alone: who moves a source must see what has moved.
            bulk=BulkService(door, encrypted, apikeys, directory, large_answers),
            audit=AuditService(door, proxy.principal),
            health=health,
            telemetry=TelemetryService(door, keys, health, stores, meter),
            meter=meter,
            authenticators=(
                *(make_authenticator(each, apikeys) for each in settings.authenticators),
                Bearer(logins),
                Basic(sign_ins),
                Certificate(holders),
            ),
            process=Process(holders),
            own_user=(OwnUser(os.geteuid()),),
            proxy=proxy,
            networks=networks,
            slow=slow,
            head_fields=_head_fields(settings.authenticators),
            closing=stack.pop_all(),
        )


def _engines(settings: Sequence[EngineSettings]) -> Panel | None:
    """Return the engines that *settings* describe, unasked; None where there are none.

    Raises:
        ConfigurationError, KeyFileMissing, KeyFileUnusable: one cannot be made.
    """
    if not settings:
        return None
    return Panel([make_engine(each, _token(each.options.get("token_file"))) for each in settings])


def _token(path: str | None) -> Secret | None:
    """Return the token that the file at *path* holds; None where none is named."""
    if path is None:
        return None
    held = _TOKEN_FILE.read(Path(path), _MAX_TOKEN)
    if re.fullmatch(rb"[!-~]+", held.strip()) is None or len(held) > _MAX_TOKEN:
        raise ConfigurationError(f"{path}: a token is one line of at most {_MAX_TOKEN} printable characters")
    return Secret(held.strip().decode())


def _logins(directory: Directory, store: Backend, encrypted: Backend, holder: Holder, uses: Uses) -> Logins:
    """Return who knows tokens; what is made of keys for that is let go of with these."""
    signing = SigningKeys(store, holder, desk)
    holder.on_drop = signing.forget
    return Logins(directory, encrypted, signing, uses=uses)


async def _refuse_empty(store: Backend, known: str | None, said: str) -> None:
    """Refuse a store with nothing in it where the records are known to be in one, lest an empty one seem to be all.

    Names that another application has below the same prefix make no difference.

    Raises:
        ConfigurationError: it holds no keyring and no secret.
    """
    if known is None:
        return
    for prefix in (names.KEYRING, names.SECRETS):
        if (await store.list(prefix, limit=1)).names:
            return
    raise ConfigurationError(
        f"the store holds no records of ours, and this home's records are in {masked(as_said(known))}: if they are "
        "there, say that store, or move them; if they are lost, restore a backup; to begin with nothing all the same, "
        "choose another --home"
    ).advising(*moving_to(said))


def _head_fields(authenticators: tuple[AuthenticatorSettings, ...]) -> head.Table:
    options: Mapping[str, str] = {}
    for settings in authenticators:
        if settings.handler == "SimpleAuthKeys":
            options = settings.options
    return head.table_with(options.get("id_header", "CUSTODIA_AUTH_ID"), options.get("key_header", "CUSTODIA_AUTH_KEY"))
