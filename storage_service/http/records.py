"""What the socket serves beside ``/secrets``, ``/keyring`` and ``/bulk``: models, API keys, who am I, status."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from strongroom.models import LIST_MODELS, MODELS, Model
from strongroom.models.errors import ValidationError
from strongroom.models.strict_json import SHORT, SHORT_STRUCTURE, UNREADABLE, structure
from strongroom.storage_service import wire
from strongroom.storage_service.access.apikeys import ApiKeyRecord
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.tokens import bearer
from strongroom.storage_service.access.uses import FORMER, KEY
from strongroom.storage_service.bootstrap import Parts
from strongroom.storage_service.errors import Invalid, TooLarge
from strongroom.storage_service.failure_log import FailureLog
from strongroom.storage_service.handlers import Stored
from strongroom.storage_service.http import access as access_resources
from strongroom.storage_service.http import bulk, logins
from strongroom.storage_service.http import keys as key_resources
from strongroom.storage_service.http import rules as rule_resources
from strongroom.storage_service.http.answering import (
    Request,
    Response,
    answer,
    answer_held,
    body,
    caller,
    decoded,
    not_a,
)
from strongroom.storage_service.http.large_bodies import LargeBodies, Sent
from strongroom.storage_service.metrics import CONTENT_TYPE
from strongroom.storage_service.services.access import AccessService
from strongroom.storage_service.services.audit import AuditService
from strongroom.storage_service.services.health import HealthService
from strongroom.storage_service.services.logins import LoginService
from strongroom.storage_service.services.records import RecordService, Reference
from strongroom.storage_service.services.telemetry import TelemetryService
from strongroom.storage_service.turns import Turns
from strongroom.storage_service.wire.access import ACCESS_PATH
from strongroom.storage_service.wire.etags import revision_of
from strongroom.storage_service.wire.keys import KEYRING_PATH
from strongroom.storage_service.wire.login import WHOAMI_PATH

_UNUSED: Final[Mapping[str, str]] = MappingProxyType({})
MOST: Final = 250_000  # of ``{ [ : ,`` in one body of records, within texts, too: about what 1,000 long ones have


def add_routes(app: falcon.asgi.App[Any, Any], parts: Parts, failures: FailureLog) -> None:
    """Give *app* every resource of this page."""
    records, access, health, bodies = parts.records, parts.access, parts.health, LargeBodies()
    for path, resource in (
        ("/", Ping(health)),
        ("/livez", Alive()),
        ("/readyz", Ready(health, failures)),
        (wire.METRICS_PATH, MetricsPage(parts.telemetry)),
        ("/whoami", Self(access, parts.logins)),
        (WHOAMI_PATH, Self(access, parts.logins, own=True)),
        (wire.REFUSALS_PATH, Report(parts.audit)),
        (wire.ACTS_PATH, Act(parts.audit)),
        ("/status", StatusPage(health)),
        (wire.STORAGE_PATH + "/save", Save(records, bodies)),
        (wire.STORAGE_PATH + "/get", Get(records, bodies)),
        (wire.STORAGE_PATH + "/delete", Delete(records, bodies)),
        (wire.STORAGE_PATH + "/list", List(records)),
        (wire.STORAGE_PATH + "/may", May(records)),
        (wire.STORAGE_PATH + "/handlers", Handlers(records)),
        (wire.APIKEYS_PATH, ApiKeyCollection(access)),
        (wire.APIKEYS_PATH + "/{key_id}", ApiKeyItem(access)),
        (wire.APIKEYS_PATH + "/{key_id}/rotation", ApiKeyRotation(access)),
        (wire.APIKEYS_PATH + "/{key_id}/former", FormerApiKey(access)),
    ):
        app.add_route(path, resource)
    access_resources.add_routes(app, parts.principals)
    rule_resources.add_routes(app, parts.rules, bodies)
    key_resources.add_routes(app, parts.keys)
    bulk.add_routes(app, parts.bulk, bodies)
    logins.add_routes(app, parts.logins)


class Ping:
    """Custodia's root: shows that credentials and socket work."""

    def __init__(self, health: HealthService) -> None:
        self._health = health

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer with Custodia's own words, which its clients look for."""
        await self._health.ping(caller(req))
        answer(req, resp, {"message": "Quis custodiet ipsos custodes?"})


class Alive:
    """Whether the process serves at all; asks nobody else."""

    async def on_get(self, _: Request, resp: Response) -> None:
        """Say that it does."""
        resp.media = {"status": "alive"}


class Ready:
    """Whether the service can do its work: stores and audit log can be written, and the keyring is the one in force.

    Locked, it serves plain records still, and is ready, unless the settings say that it is not.
    """

    def __init__(self, health: HealthService, failures: FailureLog) -> None:
        self._health = health
        self._failures = failures

    async def on_get(self, req: Request, resp: Response) -> None:
        """Say whether it can, in which state, and what was looked at: words and truth values, for anybody sees them."""
        found = await self._health.check()
        if found.error is not None:
            self._failures.tell(found.error, req.get_header(wire.REQUEST_ID_HEADER) or "-")
        resp.status = falcon.HTTP_200 if found.ready else falcon.HTTP_503
        resp.set_header("Cache-Control", "no-store")
        if not found.ready:
            resp.set_header("Retry-After", str(wire.RETRY_AFTER))
        resp.media = {
            "status": "ready" if found.ready else "unready",
            "state": found.state,
            "checks": dict(found.checks),
        }


class MetricsPage:
    """What the service measures of itself, for Prometheus."""

    def __init__(self, telemetry: TelemetryService) -> None:
        self._telemetry = telemetry

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it to who watches this machine, as the application found out, and to who may read the status."""
        if "caller" in req.scope["state"]:
            await self._telemetry.permit(caller(req))
        resp.content_type = CONTENT_TYPE
        resp.set_header("Cache-Control", "no-store")
        resp.data = await self._telemetry.tell()


class Self:
    """Whom the service takes the caller for."""

    def __init__(self, access: AccessService, logins: LoginService, *, own: bool = False) -> None:
        """Take the parts; *own*: who asks through the proxy asks for himself, and not the proxy who it is."""
        self._access = access
        self._logins = logins
        self._own = own

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell the principal, its reach, its groups; where the proxy asks, its act will be recorded, not this."""
        principal = await self._access.whoami(caller(req), own=self._own)
        shown = req.get_header("Authorization") or ""
        token_id = expires = None
        if principal.ruled and shown[:7].lower() == "bearer ":
            token_id, expires = await self._logins.shown(bearer(shown))
        answer(
            req,
            resp,
            wire.WhoAmI(
                principal=principal.id,
                paths=list(principal.paths),
                actions=sorted(map(str, principal.actions)),
                groups=sorted(principal.groups),
                credential=principal.credential,
                token_id=token_id,
                expires=expires,
                ruled=principal.ruled,
            ),
        )


class StatusPage:
    """The state of the service, and where its endpoints are (CPD-101: a way to query for the secrets endpoint)."""

    def __init__(self, health: HealthService) -> None:
        self._health = health

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it to whoever is known; of keys and old places those alone who may read what is the service's own."""
        told = await self._health.status(caller(req))
        endpoints = {
            "secrets": wire.SECRETS_PATH + "/",
            "storage": wire.STORAGE_PATH + "/",
            "apikeys": wire.APIKEYS_PATH,
            "access": ACCESS_PATH + "/",
            "keyring": KEYRING_PATH,
            "bulk": wire.BULK_PATH,
        }
        said = wire.Status(
            version=wire.VERSION,
            state=told.state,
            store=told.store,
            store_fault=told.fault,
            endpoints=endpoints,
            keys=list(told.keys),
            active_key=told.active_key,
            read_through=list(told.read_through),
            reads_through=told.reads_through,
        )
        answer(req, resp, said)


class Save:
    """The verb that writes records."""

    def __init__(self, records: RecordService, bodies: LargeBodies) -> None:
        self._records = records
        self._bodies = bodies

    async def on_post(self, req: Request, resp: Response) -> None:
        """Build all records, and only then write them; answer them as they are stored."""
        await self._records.expect_some(caller(req), Action.PUT)
        async with self._bodies.of(req) as sent:
            said = await _records_said(sent)
            model = _model(said.model)
            records = await _built(model, said.records)
            stored = await self._records.save(caller(req), records, _expected(said))
        answer(req, resp, await _records_answer(stored))


class Get:
    """The verb that reads records."""

    def __init__(self, records: RecordService, bodies: LargeBodies) -> None:
        self._records = records
        self._bodies = bodies

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer the records in the order asked."""
        await self._records.expect_some(caller(req), Action.GET)
        async with self._bodies.of(req) as sent:
            said = await _records_said(sent)
            model, wanted = _meant(said)
        stored, turn = await self._records.fetch_held(caller(req), model, wanted, tags=said.tags)
        await answer_held(req, resp, await _records_answer(stored, tags=said.tags), turn)


class Delete:
    """The verb that removes records."""

    def __init__(self, records: RecordService, bodies: LargeBodies) -> None:
        self._records = records
        self._bodies = bodies

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer for each record whether it was there."""
        await self._records.expect_some(caller(req), Action.DELETE)
        async with self._bodies.of(req) as sent:
            said = await _records_said(sent)
            model, meant = _meant(said)
            removed = await self._records.remove(caller(req), model, meant, _expected(said))
        answer(req, resp, wire.DeletedAnswer(deleted=removed))


class List:
    """The verb that lists records."""

    def __init__(self, records: RecordService) -> None:
        self._records = records

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer a page of a list model."""
        said = await body(req, wire.Listing, wire.MAX_LISTING_BODY)
        list_model = LIST_MODELS.get(said.model)
        if list_model is None:
            raise Invalid("there is no such list model", (("model", "is not the name of a list model"),))
        place = said.after, said.limit, said.source
        if said.keys:
            keys = await self._records.list_record_keys(caller(req), list_model.item, *place)
            answer(req, resp, wire.KeysAnswer(keys=list(keys.keys), more=keys.more))
            return
        page = await self._records.list_records(caller(req), list_model.item, *place)
        listed = await _records_answer(page.records)
        listed.more = page.more
        answer(req, resp, listed)


class May:
    """The verb that asks whether something would be allowed, before it is said what exactly: the proxy's question."""

    def __init__(self, records: RecordService) -> None:
        self._records = records

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer nothing if it would be, or refuse it as the act itself would be refused, and record that."""
        said = await body(req, wire.Intent, wire.MAX_LISTING_BODY)
        if said.key is None:
            await self._records.expect_some(caller(req), Action(said.action), _model(said.model))
        else:
            await self._records.expect(caller(req), Action(said.action), _model(said.model), said.key)
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class Handlers:
    """Which models are kept where."""

    def __init__(self, records: RecordService) -> None:
        self._records = records

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the handlers, without their configuration."""
        kept = await self._records.handlers(caller(req))
        answer(req, resp, [wire.HandlerInfo(name=each.name, type=each.type, models=list(each.models)) for each in kept])


class Report:
    """What the proxy turned away itself."""

    def __init__(self, audit: AuditService) -> None:
        self._audit = audit

    async def on_post(self, req: Request, resp: Response) -> None:
        """Record it."""
        self._audit.check_is_proxy(caller(req))  # before anything is read
        said = await body(req, wire.RefusalReport, wire.MAX_REFUSALS_BODY)
        if len(said.refusals) > wire.MAX_REFUSALS:
            raise Invalid(f"a report has at most {wire.MAX_REFUSALS} refusals")
        await self._audit.take_report(caller(req), said.refusals)
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class Act:
    """What a command of this machine is about to do beside the service."""

    def __init__(self, audit: AuditService) -> None:
        self._audit = audit

    async def on_post(self, req: Request, resp: Response) -> None:
        """Record it."""
        said = await body(req, wire.CommandAct, wire.MAX_ACT_BODY)
        denied = said.decision == "denied"
        await self._audit.take_act(caller(req), said.by, Action(said.action), said.name, denied=denied)
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class ApiKeyCollection:
    """All API keys."""

    def __init__(self, access: AccessService) -> None:
        self._access = access

    async def on_get(self, req: Request, resp: Response) -> None:
        """List them, without anything that opens."""
        listed = await self._access.list_keys(caller(req))
        answer(req, resp, [_info(key_id, record, used) for key_id, record, used in listed])

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make one, and show it this once."""
        await self._access.expect_some(caller(req), Action.PUT)
        wanted = await body(req, wire.NewApiKey, wire.MAX_KEY_BODY)
        key, record = await self._access.create_key(
            caller(req), wanted.id, wanted.paths, wanted.actions, wanted.expires
        )
        info = _info(wanted.id, record)
        info.key = key.reveal()
        resp.status = falcon.HTTP_201
        answer(req, resp, info)


class ApiKeyItem:
    """One API key."""

    def __init__(self, access: AccessService) -> None:
        self._access = access

    async def on_delete(self, req: Request, resp: Response, key_id: str) -> None:
        """Revoke it, at once and everywhere."""
        await self._access.revoke_key(caller(req), key_id)
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class ApiKeyRotation:
    """Another key in the place of one."""

    def __init__(self, access: AccessService) -> None:
        self._access = access

    async def on_post(self, req: Request, resp: Response, key_id: str) -> None:
        """Make it, and show it this once."""
        await self._access.expect_some(caller(req), Action.PUT)
        wanted = await body(req, wire.Rotation, wire.MAX_KEY_BODY)
        key, record = await self._access.rotate_key(caller(req), key_id, wanted.overlap, wanted.expires)
        info = _info(key_id, record)
        info.key = key.reveal()
        resp.status = falcon.HTTP_201
        answer(req, resp, info)


class FormerApiKey:
    """The key before one."""

    def __init__(self, access: AccessService) -> None:
        self._access = access

    async def on_delete(self, req: Request, resp: Response, key_id: str) -> None:
        """End it, at once and everywhere."""
        await self._access.end_former_key(caller(req), key_id)
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


def _model(name: str) -> type[Model]:
    model = MODELS.get(name)
    if model is None:
        raise Invalid("there is no such model", (("model", "is not the name of a model that is stored"),))
    return model


class _Said(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`wire.Records`, of which the records are still text."""

    model: str
    records: list[msgspec.Raw]
    etags: list[str | None] | None = None
    tags: bool = False


_said: Final = msgspec.json.Decoder(_Said).decode


async def _records_said(sent: Sent) -> wire.Records:
    """Return the records that are a body, each read by itself: others get their turn in between.

    Raises:
        TooLarge: it is over `wire.MAX_RECORDS_BODY`, or one record over `wire.MAX_MODEL_BODY`.
        Invalid: it is no such thing, or of more than `wire.MAX_RECORDS`; nothing of it is repeated.
        Unavailable: it is large, and no turn for it came, or it was lost.
    """
    text = await sent.content(wire.MAX_RECORDS_BODY)
    said = _split(text) if len(text) <= SHORT else await asyncio.to_thread(_split, text)
    if max(len(said.records), len(said.etags or ())) > wire.MAX_RECORDS:
        raise Invalid(f"at most {wire.MAX_RECORDS} records are named at once")
    turns = Turns()
    records: list[dict[str, object]] = []
    for raw in said.records:
        if len(bytes(raw)) > wire.MAX_MODEL_BODY:
            raise TooLarge("a record is over its limit")
        record = await decoded(bytes(raw), wire.MAX_RECORD_STRUCTURE)
        if not isinstance(record, dict):
            raise not_a(wire.Records)
        records.append(record)
        await turns.take()
    return wire.Records(model=said.model, records=records, etags=said.etags, tags=said.tags)


def _split(text: bytes) -> _Said:
    """Return the records that are *text*, themselves still text.

    Raises:
        Invalid: it is no such thing; nothing of it is repeated.
    """
    if structure(text) > MOST:
        raise Invalid("the records hold more than is read at once: send fewer of them")
    try:
        return _said(text)
    except UNREADABLE:
        pass
    raise not_a(wire.Records)  # after the handler: the error that was caught may hold the body


async def _built(model: type[Model], given: Sequence[dict[str, object]]) -> list[Model]:
    records: list[Model] = []
    faults: list[tuple[str, str]] = []
    turns = Turns()
    for index, values in enumerate(given):
        try:
            many = sum(len(value) for value in values.values() if isinstance(value, (list, dict))) > SHORT_STRUCTURE
            records.append(await asyncio.to_thread(model.from_dict, values) if many else model.from_dict(values))
        except ValidationError as error:
            where = "" if len(given) == 1 else f"[{index}]."
            faults += [(where + fault.field, fault.reason) for fault in error.faults]
        await turns.take()
    if faults:
        raise Invalid("a record is not valid, so none is saved", tuple(faults))
    return records


def _meant(said: wire.Records) -> tuple[type[Model], list[Reference]]:
    model = _model(said.model)
    return model, _references(model, said.records)


def _references(model: type[Model], given: Sequence[dict[str, object]]) -> list[Reference]:
    references = []
    for values in given:
        key, source = values.get(model.primary_key), values.get("source", "")
        if not isinstance(key, str) or not isinstance(source, str):
            raise Invalid("name a record by its primary key", ((model.primary_key, "is not a string"),))
        references.append(Reference(key, source))
    return references


def _expected(said: wire.Records) -> list[int | None]:
    etags: Sequence[str | None] = said.etags if said.etags is not None else [None] * len(said.records)
    if len(etags) != len(said.records):
        raise Invalid("there must be one etag for each record", (("etags", "must be as many as the records"),))
    return [None if etag is None else revision_of(etag) for etag in etags]


async def _records_answer(stored: Sequence[Stored[Model] | None], *, tags: bool = False) -> wire.RecordsAnswer:
    turns = Turns()
    records: list[dict[str, object] | None] = []
    for each in stored:
        await turns.take()
        records.append(None if each is None or tags else each.record.to_dict())
    return wire.RecordsAnswer(
        records=records,
        etags=[None if each is None else wire.etag_of(each.revision) for each in stored],
    )


def _info(key_id: str, record: ApiKeyRecord, used: Mapping[str, str] = _UNUSED) -> wire.ApiKeyInfo:
    former = record.former
    return wire.ApiKeyInfo(
        id=key_id,
        paths=record.paths,
        actions=[str(action) for action in record.actions],
        created=record.created,
        used=used.get(KEY),
        expires=record.expires,
        former_ends=None if former is None else former.ends,
        former_used=None if former is None else used.get(FORMER),
    )
