"""Every operation of the client, once: what it sends and how it reads the answer, with no I/O.

The two faces make methods of these functions (``StorageClient.get`` carries out ``operations.get``), so what stands
here is what both offer. Every operation can raise any `ServiceError`; those named below have a meaning of their own.
A name or a key that breaks the grammar of names is `InvalidName`, before anything is sent.
"""

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec

from strongroom.models import Host, names
from strongroom.models.base import ListModel, Model
from strongroom.models.errors import InvalidName, ModelError
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import wire
from strongroom.storage_service.client.retries import Answer, Call, Effect, Operation
from strongroom.storage_service.errors import Exists, Internal, NotFound, ServiceError, TooLarge
from strongroom.storage_service.wire import message

M = TypeVar("M", bound=Model)
A = TypeVar("A")

ANY_REVISION = "*"
"""In the place of an etag: whatever the record's revision is, it must exist."""

# What the service says of a secret in words of HTTP, in words of Python.
_SAYS: Final[Mapping[type[ServiceError], str]] = {
    Exists: 'the secret exists already; pass the etag that you read, or etag="*", to replace it',
}


class Record(NamedTuple, Generic[M]):
    """A stored record: the model itself, and the tag of the revision it was read at or written as."""

    model: M
    etag: str


class StoredSecret(NamedTuple):
    """A stored secret and the tag of its revision. Only the two reveal methods show it."""

    value: Secret
    etag: str

    def reveal(self) -> str:
        """Return the secret as text."""
        return self.value.reveal()

    def reveal_bytes(self) -> bytes:
        """Return the secret as the bytes that it was stored as.

        Raises:
            ValueError: it was stored as text.
        """
        try:
            return b64decode(self.value.reveal(), validate=True)
        except ValueError:
            raise ValueError("the secret was stored as text") from None


class StoredText(NamedTuple):
    """The full form of a stored record in JSON, as the service writes it, and the tag of its revision."""

    text: Secret
    etag: str


class IssuedKey(NamedTuple):
    """A new API key. The service keeps a verifier alone: whoever loses *api_key* must make another."""

    api_id: str
    api_key: Secret
    paths: list[str]
    actions: list[str]


class Page(NamedTuple, Generic[M]):
    """A part of a listing; *after* is where the next one begins, None at the end."""

    records: list[Record[M]]
    after: str | None


class NamesPage(NamedTuple):
    """A part of a listing of secrets and containers; *after* is where the next one begins, None at the end."""

    names: list[str]
    after: str | None


class Walk:
    """How far a walk through a container is, or through all that the caller reaches: see `walk_on`."""

    def __init__(self, container: str = "") -> None:
        """Begin it; *container* may end in its slash."""
        self.container = container.removesuffix("/")
        self.done = False
        self.after: str | None = ""  # the last name of the listing that it goes along
        self.tops: list[str] = []  # containers at the root that it has not gone through
        self.inner: str | None = None  # the last name that it told of the first of these; None: it has not begun


class KeyPage(NamedTuple):
    """A part of a listing of keys; *after* is where the next one begins, None at the end."""

    keys: list[str]
    after: str | None


# Models


def get(model: type[M], key: str, *, source: str = "") -> Operation[Record[M]]:
    """Return the record of *model* whose primary key is *key*.

    Args:
        source: the name of the storage handler that holds it, where that is not the model's own.

    Raises:
        NotFound: there is none.
    """
    (record,) = yield from get_many(model, [key], source=source)
    if record is None:
        raise NotFound("there is no such record")
    return record


def get_many(model: type[M], keys: Iterable[str], *, source: str = "") -> Operation[list[Record[M] | None]]:
    """Return the records with *keys*, in the order asked, None in the place of each that does not exist."""

    def ask(some: Sequence[str]) -> Operation[list[Record[M] | None]]:
        body = _body(model, _references(model, some, source))
        return _records(model, (yield _storage("get", body, Effect.READ, _name(model, some))), len(some))

    wanted = _several(keys)
    found = yield from each_of(wanted, wire.MAX_RECORDS, ask)
    return [found[key] for key in wanted]


def find_tag(model: type[Model], key: str) -> Operation[str | None]:
    """Return the tag of the record of *model* with *key*, None where there is none; who may list it may know."""
    body = msgspec.json.encode({"model": model.__name__, "records": _references(model, [key], ""), "tags": True})
    said = decode((yield _storage("get", body, Effect.READ, model.name_of(key))), _FoundTags)
    if len(said.etags) != 1:
        raise _unreadable()
    return said.etags[0]


def save(model: M, *, etag: str | None = None) -> Operation[Record[M]]:
    """Store *model* and return it with its new etag.

    Args:
        etag: save only if the record is still at this revision, or with ``"*"`` only if it exists. None: whatever is.

    Raises:
        Changed: it is not.
        Invalid: the record breaks its model's rules; *faults* says where.
    """
    (record,) = yield from save_many([model], etags=[etag])
    return record


def save_many(models: Iterable[M], *, etags: Sequence[str | None] | None = None) -> Operation[list[Record[M]]]:
    """Store records of one model and return them with their new etags.

    Up to 128 plain records, or some forty secret ones, are stored at once or not at all; of more, those before the
    batch that failed stay stored.

    Args:
        etags: one for each of *models*, as `save` takes it; None: store whatever is there.

    Raises:
        TypeError: *models* are not all of one class.
        ValueError: there are not as many etags as models.
        Changed: a record is not at its revision.
        Invalid: a record breaks its model's rules; none was stored.
    """
    given = list(models)
    if not given:
        return []
    model = type(given[0])
    if any(type(each) is not model for each in given):
        raise TypeError("records that are saved together are of one model")
    if etags is not None and len(etags) != len(given):
        raise ValueError("there must be one etag for each record")
    stored: list[Record[M] | None] = []
    for start, end in _parts(len(given)):
        tags = None if etags is None else etags[start:end]
        some = given[start:end]
        name = _name(model, [each.key for each in some])
        body = _body(model, [each.to_dict() for each in some], tags)
        stored += _records(model, (yield _storage("save", body, _guard(tags), name)), end - start)
    return [_there(record) for record in stored]


def get_texts(model: type[Model], keys: Iterable[str]) -> Operation[list[StoredText | None]]:
    """Return the full forms of the records with *keys*, in JSON: as `get_many`, for who moves or compares records.

    The text of a record is what its model's ``to_json`` returns.
    """

    def ask(some: Sequence[str]) -> Operation[list[StoredText | None]]:
        body = _body(model, _references(model, some, ""))
        said = decode((yield _storage("get", body, Effect.READ, _name(model, some))), _Texts)
        if not len(said.records) == len(said.etags) == len(some):
            raise _unreadable()
        return [
            None if etag is None else StoredText(Secret(str(text, "utf-8")), etag)
            for text, etag in zip(said.records, said.etags, strict=True)
        ]

    wanted = _several(keys)
    found = yield from each_of(wanted, wire.MAX_RECORDS, ask)
    return [found[key] for key in wanted]


def save_texts(
    model: type[Model], texts: Iterable[Secret], *, etags: Sequence[str | None] | None = None
) -> Operation[list[str]]:
    """Store records of *model* whose full forms in JSON are *texts*, as `save_many`; return their new etags.

    Raises:
        ValueError: a text is not a JSON object, or there are not as many etags as texts.
        Changed: a record is not at its revision.
        Invalid: a text is no valid record; none was stored.
    """
    given = [_object(text.reveal()) for text in texts]
    if not given:
        return []
    if etags is not None and len(etags) != len(given):
        raise ValueError("there must be one etag for each text")
    stored: list[str] = []
    for start, end in _parts(len(given)):
        tags = None if etags is None else etags[start:end]
        body = _body(model, given[start:end], tags)
        said = decode((yield _storage("save", body, _guard(tags), model.prefix())), _Tags)
        if len(said.etags) != end - start:
            raise _unreadable()
        stored += said.etags
    return stored


def delete(model: type[M], key: str, *, etag: str | None = None, source: str = "") -> Operation[None]:
    """Remove a record.

    Raises:
        NotFound: there is none.
        Changed: it is not at the revision *etag*.
    """
    (was_there,) = yield from delete_many(model, [key], etags=[etag], source=source)
    if not was_there:
        raise NotFound("there is no such record")


def delete_many(
    model: type[M], keys: Iterable[str], *, etags: Sequence[str | None] | None = None, source: str = ""
) -> Operation[list[bool]]:
    """Remove the records with *keys*, as many at once as `save_many` stores; return for each whether it was there.

    Raises:
        ValueError: there are not as many etags as keys.
        Changed: a record is not at its revision.
    """
    each = _several(keys)
    wanted = _references(model, each, source)
    if not wanted:
        return []
    if etags is not None and len(etags) != len(wanted):
        raise ValueError("there must be one etag for each record")
    deleted: list[bool] = []
    for start, end in _parts(len(wanted)):
        tags = None if etags is None else etags[start:end]
        name = _name(model, each[start:end])
        answer = yield _storage("delete", _body(model, wanted[start:end], tags), _guard(tags), name)
        said = decode(answer, wire.DeletedAnswer).deleted
        if len(said) != end - start:
            raise _unreadable()
        deleted += said
    return deleted


def check_may(action: str, model: type[Model], key: str | None = None) -> Operation[None]:
    """Return if the caller may do *action* to the record of *model* with *key*: who asks first need not say all.

    Without a key, return if there can be a record that it may do it to.

    Raises:
        Denied: the caller may not, which is recorded as if it had tried.
    """
    body = msgspec.json.encode({"action": action, "model": model.__name__, "key": key})
    yield _storage("may", body, Effect.READ, model.prefix() if key is None else model.name_of(key))


def page(list_model: type[ListModel[M]], after: str | None, *, source: str = "") -> Operation[Page[M]]:
    """Return the records of a list model that come after the key *after*, as many as the service gives at a time."""
    body = msgspec.json.encode(wire.Listing(model=list_model.__name__, source=source, after=after))
    answer = yield _storage("list", body, Effect.READ, list_model.prefix())
    said = decode(answer, wire.RecordsAnswer)
    records = [_there(record) for record in _records_of(cast("type[M]", list_model.item), said)]
    return Page(records, records[-1].model.key if said.more and records else None)


def list_keys(list_model: type[ListModel[M]], after: str | None = None, *, source: str = "") -> Operation[KeyPage]:
    """Return the next keys of a list model's records, unread: those of records that are not valid are among them.

    Args:
        after: the key that they come after.
        source: the name of the storage handler whose hosts they are, where that is not the model's own.
    """
    body = msgspec.json.encode(wire.Listing(model=list_model.__name__, source=source, keys=True, after=after))
    said = decode((yield _storage("list", body, Effect.READ, list_model.prefix())), wire.KeysAnswer)
    return KeyPage(said.keys, said.keys[-1] if said.more and said.keys else None)


def list_store_handlers() -> Operation[list[wire.HandlerInfo]]:
    """Return the storage handlers of the service and the models that each of them keeps."""
    return decode((yield Call("GET", f"{wire.STORAGE_PATH}/handlers", Effect.READ)), list[wire.HandlerInfo])


def host_sources() -> Operation[list[str]]:
    """Return what *source* can be of hosts: "" first, where a handler keeps hosts that name none, then all names."""
    told = yield from list_store_handlers()
    plain = [handler for handler in told if handler.name != wire.SECRETS_HANDLER]
    return [""] * any(keeps_hosts := [Host.__name__ in handler.models for handler in plain]) + [
        handler.name for handler, keeps in zip(plain, keeps_hosts, strict=True) if not keeps
    ]


# Secrets, by Custodia's contract. A container is "db" or "db/primary", with or without its trailing slash.


def get_secret(container: str, key: str) -> Operation[StoredSecret]:
    """Return the secret *key* of *container*, and its etag.

    Raises:
        NotFound: there is no such secret.
    """
    answer = yield _of_secret("GET", container, key, Effect.READ, headers={"Accept": wire.JSON})
    return StoredSecret(Secret(decode(answer, message.Message).value), _etag(answer))


def get_secrets(wanted: Iterable[str]) -> Operation[dict[str, Secret | None]]:
    """Return the secrets with the names *wanted* (``"db/password"``), None for each that does not exist.

    They are asked for by the thousand, and in halves where they are more than one answer holds (8 MiB as stored): so
    over a thousand names, or so many bytes, are not read as of one moment.
    """

    def ask(some: Sequence[str]) -> Operation[list[Secret | None]]:
        body = msgspec.json.encode({"names": some})
        name = (
            checked[0] if len(checked := [names.check(names.SECRETS + each) for each in some]) == 1 else names.SECRETS
        )
        path, kind = f"{wire.SECRETS_PATH}/?batch=get", {"Content-Type": wire.JSON}
        answer = yield Call("POST", path, Effect.READ, body, kind, name)
        messages = decode(answer, dict[str, message.Message | None])
        return [None if (found := messages.get(name)) is None else Secret(found.value) for name in some]

    return (yield from each_of(_several(wanted), wire.MAX_BATCH_NAMES, ask))


def set_secret(container: str, key: str, value: str | Secret | bytes, *, etag: str | None = None) -> Operation[str]:
    """Store a secret in an existing container and return its new etag.

    Args:
        value: text, or bytes, which `StoredSecret.reveal_bytes` gives back.
        etag: None creates; a tag replaces that revision, and ``"*"`` whatever is there.

    Raises:
        Exists: it is there already, and *etag* is None.
        Changed: it is not at the revision *etag*.
        NoContainer: *container* does not exist.
        TooLarge: over 512 KiB.
    """
    if isinstance(value, bytes):
        kind, body = wire.OCTET_STREAM, value
    else:
        text = value.reveal() if isinstance(value, Secret) else value
        kind, body = wire.JSON, message.encode(text)
    headers = {"Content-Type": kind, **_if_match(etag)}
    return _etag((yield _of_secret("PUT", container, key, _guard([etag]), body=body, headers=headers)))


def delete_secret(container: str, key: str, *, etag: str | None = None) -> Operation[None]:
    """Remove a secret.

    Raises:
        NotFound: there is none.
        Changed: it is not at the revision *etag*.
    """
    yield _of_secret("DELETE", container, key, _guard([etag]), headers=_if_match(etag))


def create_container(container: str) -> Operation[bool]:
    """See to it that *container* exists; return whether it is new.

    Raises:
        NoContainer: the container that it would lie in does not exist.
    """
    answer = yield _of_container("POST", container, Effect.WRITE)
    return answer.status == 201


def list_container(container: str) -> Operation[list[str]]:
    """Return the names in *container* and in all containers within, in order; containers end in a slash.

    Raises:
        NotFound: there is no such container.
    """
    return decode((yield _of_container("GET", container, Effect.READ)), list[str])


def list_containers() -> Operation[list[str]]:
    """Return the containers that lie in no other, in order, each with its slash.

    Who may not list all secrets is told the outermost containers that it may list. Where the service gives everybody a
    container of its own (``UserNameSpace``): what is in the caller's.

    Raises:
        Denied: the caller may list no container.
    """
    return decode((yield Call("GET", f"{wire.SECRETS_PATH}/", Effect.READ, name=names.SECRETS)), list[str])


def list_names(container: str = "", after: str = "", *, limit: int = wire.MAX_NAMES_PAGE) -> Operation[NamesPage]:
    """Return the names that come after *after* in *container* and in all containers within, *limit* of them at most.

    Args:
        container: which one; "": the root, whose names are the outermost containers that the caller may list.
        after: what they sort behind, in the order of their bytes; it need not be a name.
        limit: 1 to 1,000.

    Raises:
        NotFound: there is no such container.
        Denied: the caller may not list it; of the root: it may list no container.
    """
    path = _of_container("GET", container, Effect.READ).path if container else f"{wire.SECRETS_PATH}/"
    name = names.SECRETS + container
    call = Call("GET", f"{path}?limit={limit}&after={quote(after, safe='/')}", Effect.READ, name=name)
    found = decode((yield call), list[str])
    return NamesPage(found, found[-1] if len(found) >= limit else None)


def walk_on(walk: Walk) -> Operation[list[str]]:
    """Return the next names of *walk*, some or none, and note there how far it is.

    Raises:
        NotFound: there is no such container.
        Denied: the caller may not list it, or no container at all.
    """
    if walk.container or not walk.tops:
        if walk.after is None:
            walk.done = True
            return []
        found, walk.after = yield from list_names(walk.container, walk.after)
        walk.done = walk.after is None and bool(walk.container or not found)
        if walk.container:
            return found
        walk.tops = found
        return []
    top = walk.tops[0]
    begun = walk.inner is not None
    try:
        found, walk.inner = yield from list_names(top, walk.inner or "")
    except NotFound:  # it was removed meanwhile
        walk.tops, walk.inner = walk.tops[1:], None
        return []
    if walk.inner is None:
        walk.tops = walk.tops[1:]
    return [*([] if begun else [top]), *(top + name for name in found)]


def delete_container(container: str) -> Operation[None]:
    """Remove an empty container.

    Raises:
        NotFound: there is no such container.
        NotEmpty: it holds something.
    """
    yield _of_container("DELETE", container, Effect.WRITE)


# Operations of the service


def status() -> Operation[wire.Status]:
    """Return the state of the service."""
    return decode((yield Call("GET", "/status", Effect.READ)), wire.Status)


def whoami() -> Operation[wire.WhoAmI]:
    """Return whom the service takes the caller for."""
    return decode((yield Call("GET", "/whoami", Effect.READ)), wire.WhoAmI)


def secrets_endpoint() -> Operation[str]:
    """Return the path of the service's secrets, for clients that speak Custodia's protocol themselves (CPD-101)."""
    return (yield from status()).endpoints["secrets"]


def create_apikey(
    api_id: str,
    *,
    paths: Iterable[str] = ("/secrets",),
    actions: Iterable[str] = ("get", "list", "put", "delete"),
    expires: str | None = None,
) -> Operation[IssuedKey]:
    """Make an API key and return it; nothing can show it again.

    Args:
        api_id: what the key is known by.
        paths: what it reaches, as Custodia's SimplePathAuthz reads it: ``/secrets/db`` and all below.
        actions: what it may do there.
        expires: when it is worth nothing any more, as in ``2027-01-31T12:00:00Z``; None: never.

    Raises:
        Exists: there is a key of that id.
        Denied: it would reach further than the caller's own.
        Invalid: it would have expired, or something of it cannot be.
    """
    wanted = wire.NewApiKey(id=segment(api_id), paths=_several(paths), actions=_several(actions), expires=expires)
    body = msgspec.json.encode(wanted)
    return _issued((yield Call("POST", wire.APIKEYS_PATH, Effect.WRITE, body, {"Content-Type": wire.JSON})))


def rotate_apikey(api_id: str, *, overlap: str = "24h", expires: str | None = None) -> Operation[IssuedKey]:
    """Make another key in the place of one and return it; nothing can show it again.

    Args:
        api_id: of the key.
        overlap: how long the one before is good, too, as in ``1h30m``; "": it ends at once.
        expires: when the new one is worth nothing any more; None: never.

    Raises:
        NotFound: there is no such key.
        Contradicted: the one before is still good: see `end_former_apikey`.
        Denied: it reaches further than the caller's own.
        Invalid: the overlap is no duration, or too long; or the new key would have expired.
    """
    body = msgspec.json.encode(wire.Rotation(overlap=overlap, expires=expires))
    path = f"{wire.APIKEYS_PATH}/{segment(api_id)}/rotation"
    return _issued((yield Call("POST", path, Effect.WRITE, body, {"Content-Type": wire.JSON})))


def end_former_apikey(api_id: str) -> Operation[None]:
    """End the key before one, at once.

    Raises:
        NotFound: there is no such key, or none before it that is still good.
    """
    yield Call("DELETE", f"{wire.APIKEYS_PATH}/{segment(api_id)}/former", Effect.WRITE)


def _issued(answer: Answer) -> IssuedKey:
    made = decode(answer, wire.ApiKeyInfo)
    if not made.key:
        raise _unreadable()
    return IssuedKey(made.id, Secret(made.key), made.paths, made.actions)


def list_apikeys() -> Operation[list[wire.ApiKeyInfo]]:
    """Return every API key's id and reach; the keys themselves nobody knows."""
    return decode((yield Call("GET", wire.APIKEYS_PATH, Effect.READ)), list[wire.ApiKeyInfo])


def revoke_apikey(api_id: str) -> Operation[None]:
    """End an API key at once.

    Raises:
        NotFound: there is no such key.
    """
    yield Call("DELETE", f"{wire.APIKEYS_PATH}/{segment(api_id)}", Effect.WRITE)


def check_key(model: Model, key: str) -> None:
    """See that a record edited as *key* still is that record.

    Raises:
        ValueError: its primary key was changed, so it would be saved as another record.
    """
    if model.key != key:
        raise ValueError("an edit does not change the primary key: save a new record and delete the old one")


# Building requests


def _storage(verb: str, body: bytes, effect: Effect, name: str) -> Call:
    return Call("POST", f"{wire.STORAGE_PATH}/{verb}", effect, body, {"Content-Type": wire.JSON}, name)


def _name(model: type[Model], keys: Sequence[str]) -> str:
    """Return the name of the record with the one key, or what the names of several begin with.

    Raises:
        InvalidName: a key is no legal segment of a name.
    """
    each = [model.name_of(key) for key in keys]
    return each[0] if len(each) == 1 else model.prefix()


def _body(model: type[Model], records: Sequence[object], etags: Sequence[str | None] | None = None) -> bytes:
    """Return the body that is a `wire.Records`; *records* may be written already."""
    return msgspec.json.encode({"model": model.__name__, "records": records, "etags": etags})


def _object(text: str) -> msgspec.Raw:
    """Return *text* as a part of a body, whose other parts it cannot touch: it is one whole object.

    Raises:
        ValueError: it is not.
    """
    with suppress(*UNREADABLE):  # whose texts may quote from it
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return msgspec.Raw(text)
    raise ValueError("a text is not a JSON object")


def each_of(
    wanted: Sequence[str], most: int, ask: Callable[[Sequence[str]], Operation[list[A]]]
) -> Operation[dict[str, A]]:
    """Return what *ask* answers for each of *wanted*: asked once, *most* at a time, halved where it is too much.

    Raises:
        TooLarge: one alone is too much.
    """
    distinct = list(dict.fromkeys(wanted))
    left = [distinct[start : start + most] for start in range(0, len(distinct), most)]
    found: dict[str, A] = {}
    while left:
        some = left.pop(0)
        try:
            answers = yield from ask(some)
        except TooLarge:
            if len(some) < 2:
                raise
            left[:0] = [some[: len(some) // 2], some[len(some) // 2 :]]
        else:
            found.update(zip(some, answers, strict=True))
    return found


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """Yield where each part of *size* records begins and ends that one request may have."""
    for start in range(0, size, wire.MAX_RECORDS):
        yield start, min(start + wire.MAX_RECORDS, size)


def _references(model: type[Model], keys: Iterable[str], source: str) -> list[dict[str, object]]:
    where: dict[str, object] = {"source": source} if source else {}
    return [{model.primary_key: key, **where} for key in _several(keys)]


def _several(given: Iterable[str]) -> list[str]:
    """Return *given* as a list; a string alone, which would fall into its letters, is a mistake.

    Raises:
        TypeError: it is a string.
    """
    if isinstance(given, str):
        raise TypeError("several are asked for: put the one into a list")
    return list(given)


def _guard(etags: Sequence[str | None] | None) -> Effect:
    """Only a write that names the revision of every record it replaces is guarded (see ``retries``)."""
    return Effect.GUARDED if etags and all(tag not in (None, ANY_REVISION) for tag in etags) else Effect.WRITE


def _if_match(etag: str | None) -> Mapping[str, str]:
    if etag is None:
        return {}
    if not (etag.isascii() and etag.isprintable()):
        raise ValueError('an etag must come from an answer, or be "*"')
    return {"If-Match": etag}


def _of_container(method: str, container: str, effect: Effect) -> Call:
    # The path of a secret is its name: wire.SECRETS_PATH is names.SECRETS with the slashes moved.
    name = names.check(f"{names.SECRETS}{container.removesuffix('/')}/")
    return Call(method, f"/{name}", effect, name=name)


def _of_secret(
    method: str,
    container: str,
    key: str,
    effect: Effect,
    *,
    headers: Mapping[str, str],
    body: bytes = b"",
) -> Call:
    name = names.check(f"{names.SECRETS}{container.removesuffix('/')}/{segment(key)}")
    return Call(method, f"/{name}", effect, body, headers, name, _SAYS)


def segment(key: str) -> str:
    """Return *key*, which is one segment of a path.

    Raises:
        InvalidName: it is not.
    """
    if "/" in key:
        raise InvalidName("a key is one segment; what comes before it is the container")
    return names.check(key)


# Reading answers


class _Texts(msgspec.Struct):
    """A `wire.RecordsAnswer` whose records are not read."""

    records: list[msgspec.Raw]
    etags: list[str | None]


class _FoundTags(msgspec.Struct):
    """A `wire.RecordsAnswer` of which the tags of what is there are all that is wanted."""

    etags: list[str | None]


class _Tags(msgspec.Struct):
    """A `wire.RecordsAnswer` of which the tags of what was saved are all that is wanted."""

    etags: list[str]


def decode(answer: Answer, of: type[A]) -> A:
    """Return the answer as an *of*.

    Raises:
        Internal: it is invalid; nothing of it is repeated.
    """
    try:
        return msgspec.json.decode(answer.body, type=of)
    except UNREADABLE:
        pass
    raise _unreadable()


def _records(model: type[M], answer: Answer, asked: int) -> list[Record[M] | None]:
    records = _records_of(model, decode(answer, wire.RecordsAnswer))
    if len(records) != asked:
        raise _unreadable()
    return records


def _records_of(model: type[M], said: wire.RecordsAnswer) -> list[Record[M] | None]:
    if len(said.records) != len(said.etags):
        raise _unreadable()
    try:
        return [
            None if values is None else Record(model.from_dict(values), etag or "")
            for values, etag in zip(said.records, said.etags, strict=True)
        ]
    except ModelError:
        pass
    raise _unreadable()


def _there(record: Record[M] | None) -> Record[M]:
    if record is None:
        raise _unreadable()
    return record


def _etag(answer: Answer) -> str:
    return answer.headers.get("etag", "")


def _unreadable() -> Internal:
    # Raised outside of any except block: a parser's error may hold the document, and with it a secret.
    return Internal("the service's answer does not fit the request")
