"""What each operation sends, and how it reads the answer: with no I/O."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from strongroom.models.container_managers import ContainerManagerConfig
from strongroom.models.errors import InvalidName
from strongroom.models.hosts import Host, HostCreds, Hosts
from strongroom.models.secret import Secret
from strongroom.storage_service import errors, wire
from strongroom.storage_service.client import bulk_operations, operations
from strongroom.storage_service.client.operations import Record, StoredSecret, StoredText
from strongroom.storage_service.client.retries import Answer, Call, Effect, Operation, Patience, Send, converse
from strongroom.storage_service.errors import ServiceError, TooLarge

HOST = Host.new(address="10.0.0.7")
OTHER = Host.new(address="10.0.0.8")
TEXT = Secret(HOST.to_json().decode())


def run(operation: Operation[Any], *bodies: object, etag: str = '"7"', status: int = 200) -> tuple[list[Call], Any]:
    """Answer the calls of *operation* with *bodies*, in order; return the calls and the result."""
    calls: list[Call] = []
    answers = iter(bodies)
    answer: Answer | None = None
    while True:
        try:
            calls.append(next(operation) if answer is None else operation.send(answer))
        except StopIteration as done:
            return calls, done.value
        body = next(answers)
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        answer = Answer(status, {"etag": etag}, raw)


def records(*found: Host | None, etag: str = '"7"', more: bool = False) -> wire.RecordsAnswer:
    """The answer to save, get and list."""
    return wire.RecordsAnswer(
        records=[None if record is None else record.to_dict() for record in found],
        etags=[None if record is None else etag for record in found],
        more=more,
    )


JSON = {"Content-Type": "application/json"}
MATCH_7 = {"If-Match": '"7"'}
HOST_7 = {"address": "10.0.0.7"}

# operation, its answer; the call it makes: method, path, effect, body, headers; its result
CALLS: dict[str, tuple[Operation[Any], object, str, str, Effect, object, dict[str, str], object]] = {
    "get": (
        operations.get(Host, "10.0.0.7"),
        records(HOST),
        *("POST", "/storage/get", Effect.READ, {"model": "Host", "records": [HOST_7], "etags": None}, JSON),
        Record(HOST, '"7"'),
    ),
    "get from another handler": (
        operations.get(Host, "10.0.0.7", source="attic"),
        records(HOST),
        "POST",
        "/storage/get",
        Effect.READ,
        {"model": "Host", "records": [HOST_7 | {"source": "attic"}], "etags": None},
        JSON,
        Record(HOST, '"7"'),
    ),
    "get_many": (
        operations.get_many(Host, ["10.0.0.7", "10.0.0.8"]),
        records(HOST, None),
        "POST",
        "/storage/get",
        Effect.READ,
        {"model": "Host", "records": [HOST_7, {"address": "10.0.0.8"}], "etags": None},
        JSON,
        [Record(HOST, '"7"'), None],
    ),
    "save": (
        operations.save(HOST),
        records(HOST),
        *("POST", "/storage/save", Effect.WRITE),
        {"model": "Host", "records": [HOST.to_dict()], "etags": [None]},
        JSON,
        Record(HOST, '"7"'),
    ),
    "save what must exist": (
        operations.save(HOST, etag="*"),
        records(HOST),
        *("POST", "/storage/save", Effect.WRITE),
        {"model": "Host", "records": [HOST.to_dict()], "etags": ["*"]},
        JSON,
        Record(HOST, '"7"'),
    ),
    "save at a revision": (
        operations.save(HOST, etag='"6"'),
        records(HOST),
        *("POST", "/storage/save", Effect.GUARDED),
        {"model": "Host", "records": [HOST.to_dict()], "etags": ['"6"']},
        JSON,
        Record(HOST, '"7"'),
    ),
    "save_many, one of them at no revision": (
        operations.save_many(iter([HOST, OTHER]), etags=['"6"', None]),
        records(HOST, OTHER),
        *("POST", "/storage/save", Effect.WRITE),
        {"model": "Host", "records": [HOST.to_dict(), OTHER.to_dict()], "etags": ['"6"', None]},
        JSON,
        [Record(HOST, '"7"'), Record(OTHER, '"7"')],
    ),
    "get_texts": (
        operations.get_texts(Host, ["10.0.0.7", "10.0.0.8"]),
        records(HOST, None),
        *("POST", "/storage/get", Effect.READ),
        {"model": "Host", "records": [HOST_7, {"address": "10.0.0.8"}], "etags": None},
        JSON,
        [StoredText(TEXT, '"7"'), None],
    ),
    "save_texts": (
        operations.save_texts(Host, [TEXT], etags=['"6"']),
        records(HOST),
        *("POST", "/storage/save", Effect.GUARDED),
        {"model": "Host", "records": [HOST.to_dict()], "etags": ['"6"']},
        JSON,
        ['"7"'],
    ),
    "delete": (
        operations.delete(HostCreds, "10.0.0.7"),
        wire.DeletedAnswer(deleted=[True]),
        *("POST", "/storage/delete", Effect.WRITE),
        {"model": "HostCreds", "records": [HOST_7], "etags": [None]},
        JSON,
        None,
    ),
    "delete_many at revisions": (
        operations.delete_many(Host, ["10.0.0.7", "10.0.0.8"], etags=['"6"', '"5"']),
        wire.DeletedAnswer(deleted=[True, False]),
        *("POST", "/storage/delete", Effect.GUARDED),
        {"model": "Host", "records": [HOST_7, {"address": "10.0.0.8"}], "etags": ['"6"', '"5"']},
        JSON,
        [True, False],
    ),
    "a page that is not the last": (
        operations.page(Hosts, "10.0.0.6"),
        records(HOST, more=True),
        *(
            "POST",
            "/storage/list",
            Effect.READ,
            {"model": "Hosts", "after": "10.0.0.6", "limit": 1000, "source": "", "keys": False},
            JSON,
        ),
        ([Record(HOST, '"7"')], "10.0.0.7"),
    ),
    "the last page": (
        operations.page(Hosts, None),
        records(),
        *(
            "POST",
            "/storage/list",
            Effect.READ,
            {"model": "Hosts", "after": None, "limit": 1000, "source": "", "keys": False},
            JSON,
        ),
        ([], None),
    ),
    "a page of keys": (
        operations.list_keys(Hosts, "a", source="old"),
        wire.KeysAnswer(keys=["b", "c"], more=True),
        *("POST", "/storage/list", Effect.READ),
        {"model": "Hosts", "after": "a", "limit": 1000, "source": "old", "keys": True},
        JSON,
        (["b", "c"], "c"),
    ),
    "no keys": (
        operations.list_keys(Hosts),
        wire.KeysAnswer(keys=[], more=False),
        *("POST", "/storage/list", Effect.READ),
        {"model": "Hosts", "after": None, "limit": 1000, "source": "", "keys": True},
        JSON,
        ([], None),
    ),
    "list_store_handlers": (
        operations.list_store_handlers(),
        [wire.HandlerInfo(name="sqlite", type="sqlite", models=["Host"])],
        *("GET", "/storage/handlers", Effect.READ, None, {}),
        [wire.HandlerInfo(name="sqlite", type="sqlite", models=["Host"])],
    ),
    "a page of another handler's": (
        operations.page(Hosts, "10.0.0.6", source="old"),
        records(HOST),
        *("POST", "/storage/list", Effect.READ),
        {"model": "Hosts", "after": "10.0.0.6", "limit": 1000, "source": "old", "keys": False},
        JSON,
        ([Record(HOST, '"7"')], None),
    ),
    "host_sources": (
        operations.host_sources(),
        [
            wire.HandlerInfo(name="secrets", type="sqlite", models=["HostCreds"]),
            wire.HandlerInfo(name="alt", type="etcd", models=["Cluster"]),
            wire.HandlerInfo(name="sqlite", type="sqlite", models=["Host", "Network"]),
            wire.HandlerInfo(name="old", type="sqlite", models=[]),
        ],
        *("GET", "/storage/handlers", Effect.READ, None, {}),
        ["", "alt", "old"],
    ),
    "host_sources where no handler is for hosts": (
        operations.host_sources(),
        [
            wire.HandlerInfo(name="secrets", type="sqlite", models=["HostCreds"]),
            wire.HandlerInfo(name="alt", type="etcd", models=["Cluster"]),
        ],
        *("GET", "/storage/handlers", Effect.READ, None, {}),
        ["alt"],
    ),
    "get_secret": (
        operations.get_secret("db", "password"),
        {"type": "simple", "value": "s3cret"},
        *("GET", "/secrets/db/password", Effect.READ, None, {"Accept": "application/json"}),
        StoredSecret(Secret("s3cret"), '"7"'),
    ),
    "set_secret of text": (
        operations.set_secret("db/primary/", "password", "s3cret"),
        b"",
        *("PUT", "/secrets/db/primary/password", Effect.WRITE, {"value": "s3cret", "type": "simple"}, JSON),
        '"7"',
    ),
    "set_secret of a Secret, at a revision": (
        operations.set_secret("db", "p", Secret("s3cret"), etag='"7"'),
        b"",
        *("PUT", "/secrets/db/p", Effect.GUARDED, {"value": "s3cret", "type": "simple"}, JSON | MATCH_7),
        '"7"',
    ),
    "set_secret of bytes, whatever is there": (
        operations.set_secret("db", "p", b"\x00\xff", etag="*"),
        b"",
        *("PUT", "/secrets/db/p", Effect.WRITE, b"\x00\xff"),
        {"Content-Type": "application/octet-stream", "If-Match": "*"},
        '"7"',
    ),
    "delete_secret": (
        operations.delete_secret("db", "p"),
        b"",
        *("DELETE", "/secrets/db/p", Effect.WRITE, None, {}, None),
    ),
    "delete_secret at a revision": (
        operations.delete_secret("db", "p", etag='"7"'),
        b"",
        *("DELETE", "/secrets/db/p", Effect.GUARDED, None, MATCH_7, None),
    ),
    "create_container": (
        operations.create_container("db"),
        b"",
        *("POST", "/secrets/db/", Effect.WRITE, None, {}, False),
    ),
    "list_container": (
        operations.list_container("db/"),
        ["p", "primary/"],
        *("GET", "/secrets/db/", Effect.READ, None, {}, ["p", "primary/"]),
    ),
    "list_containers": (
        operations.list_containers(),
        ["db/", "hosts/"],
        *("GET", "/secrets/", Effect.READ, None, {}, ["db/", "hosts/"]),
    ),
    "list_names": (
        operations.list_names("db/", "a+b", limit=2),
        ["p", "primary/"],
        *("GET", "/secrets/db/?limit=2&after=a%2Bb", Effect.READ, None, {}),
        operations.NamesPage(["p", "primary/"], "primary/"),
    ),
    "list_names of the root, the last": (
        operations.list_names(),
        ["db/"],
        *("GET", "/secrets/?limit=1000&after=", Effect.READ, None, {}),
        operations.NamesPage(["db/"], None),
    ),
    "delete_container": (
        operations.delete_container("db"),
        b"",
        *("DELETE", "/secrets/db/", Effect.WRITE, None, {}, None),
    ),
    "revoke_apikey": (
        operations.revoke_apikey("ci@example.org"),
        b"",
        *("DELETE", "/apikeys/ci@example.org", Effect.WRITE, None, {}, None),
    ),
    "list_apikeys": (operations.list_apikeys(), [], *("GET", "/apikeys", Effect.READ, None, {}, [])),
    "whoami": (
        operations.whoami(),
        wire.WhoAmI(principal="apikey:ci", paths=["/"], actions=["get"]),
        *("GET", "/whoami", Effect.READ, None, {}),
        wire.WhoAmI(principal="apikey:ci", paths=["/"], actions=["get"]),
    ),
}


@pytest.mark.parametrize("story", CALLS)
def test_asks_what_it_says_and_reads_the_answer(story: str) -> None:
    """Each operation makes the call of its row, and gives the row's result."""
    operation, body, method, path, effect, content, headers, result = CALLS[story]
    (call,), got = run(operation, body)

    sent = call.body if isinstance(content, bytes) else msgspec.json.decode(call.body) if call.body else None
    assert (call.method, call.path, call.effect) == (method, path, effect)
    assert sent == content
    assert dict(call.headers) == headers
    assert got == result


def test_a_new_container_is_new() -> None:
    """201 says that it is."""
    assert run(operations.create_container("db"), b"", status=201)[1] is True


def test_a_new_key_is_shown_once_and_as_a_secret() -> None:
    """The key comes as a Secret, beside what it reaches."""
    made = wire.ApiKeyInfo(id="ci", paths=["/secrets/db"], actions=["get"], created="2026-11-22T09:30:00Z", key="k3y")
    (call,), issued = run(operations.create_apikey("ci", paths=["/secrets/db"], actions=["get"]), made)

    assert msgspec.json.decode(call.body) == {"id": "ci", "paths": ["/secrets/db"], "actions": ["get"]}
    assert issued.api_key == Secret("k3y")
    assert "k3y" not in repr(issued)


def test_a_rotated_key_is_shown_once_and_as_a_secret() -> None:
    """It comes as the first one did, for an overlap that was said; the key before has a place of its own."""
    made = wire.ApiKeyInfo(id="ci", paths=["/secrets/db"], actions=["get"], created="2026-11-22T09:30:00Z", key="k3y")
    (call,), issued = run(operations.rotate_apikey("ci", overlap="1h"), made)
    (end,), _ = run(operations.end_former_apikey("ci"), b"", status=204)

    assert (call.method, call.path) == ("POST", "/apikeys/ci/rotation")
    assert msgspec.json.decode(call.body) == {"overlap": "1h", "expires": None}
    assert (end.method, end.path) == ("DELETE", "/apikeys/ci/former")
    assert issued.api_key == Secret("k3y")
    assert "k3y" not in repr(issued)


NOTHING: dict[str, Callable[[], Operation[Any]]] = {
    "get_many": lambda: operations.get_many(Host, []),
    "save_many": lambda: operations.save_many([]),
    "get_texts": lambda: operations.get_texts(Host, []),
    "save_texts": lambda: operations.save_texts(Host, []),
    "delete_many": lambda: operations.delete_many(Host, []),
    "get_secrets": lambda: operations.get_secrets([]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_asked_is_nothing_sent(name: str) -> None:
    """An empty list is answered without the service."""
    calls, result = run(NOTHING[name]())

    assert calls == []
    assert not result


MISTAKES: dict[str, tuple[Callable[[], Operation[Any]], type[Exception]]] = {
    "records of two models": (lambda: operations.save_many([HOST, ContainerManagerConfig.new(name="a")]), TypeError),
    "keys that are one string": (lambda: operations.get_many(Host, "10.0.0.7"), TypeError),
    "names that are one string": (lambda: operations.get_secrets("db/p"), TypeError),
    "paths that are one string": (lambda: operations.create_apikey("ci", paths="/secrets"), TypeError),
    "fewer etags than records": (lambda: operations.save_many([HOST, OTHER], etags=['"1"']), ValueError),
    "fewer etags than texts": (lambda: operations.save_texts(Host, [TEXT, TEXT], etags=['"1"']), ValueError),
    "a text that ends its record": (lambda: operations.save_texts(Host, [Secret('{}],"etags":["*"')]), ValueError),
    "a text that is no object": (lambda: operations.save_texts(Host, [Secret("[]")]), ValueError),
    "a text that UTF-8 cannot carry": (lambda: operations.save_texts(Host, [Secret('{"a":"\ud800"}')]), ValueError),
    "more etags than keys": (lambda: operations.delete_many(Host, ["a"], etags=[None, None]), ValueError),
    "an etag no header can carry": (lambda: operations.delete_secret("db", "p", etag="1\r\nX: y"), ValueError),
    "a key with a slash": (lambda: operations.get_secret("db", "a/b"), InvalidName),
    "a key that climbs": (lambda: operations.get_secret("db", ".."), InvalidName),
    "a container that climbs": (lambda: operations.list_container("../x"), InvalidName),
    "no container": (lambda: operations.get_secret("", "p"), InvalidName),
    "a query in a key": (lambda: operations.get_secret("db", "p?type=kem"), InvalidName),
    "an api id that climbs": (lambda: operations.revoke_apikey(".."), InvalidName),
    "an api id with a path": (lambda: operations.revoke_apikey("a/b"), InvalidName),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_anything_is_sent(mistake: str) -> None:
    """What cannot be meant raises, and no call is made."""
    operation, error = MISTAKES[mistake]

    with pytest.raises(error):
        next(operation())


def test_many_secrets_are_asked_for_by_the_thousand() -> None:
    """Names are sent at most a thousand at a time, each once, and found again under the names as given."""
    wanted = [f"db/{n}" for n in range(2500)]

    def answers() -> Iterator[dict[str, dict[str, str] | None]]:
        for start in (0, 1000, 2000):
            batch = wanted[start : start + 1000]
            yield {name: {"type": "simple", "value": f"v{name}"} if name != "db/7" else None for name in batch}

    calls, found = run(operations.get_secrets([*wanted, "db/0"]), *answers())
    assert [len(msgspec.json.decode(call.body)["names"]) for call in calls] == [1000, 1000, 500]
    assert {call.path for call in calls} == {"/secrets/?batch=get"}
    assert {call.effect for call in calls} == {Effect.READ}
    assert list(found) == wanted
    assert found["db/7"] is None
    assert found["db/2499"] == Secret("vdb/2499")


def converse_with(operation: Operation[Any], answer: Callable[[Call], object]) -> tuple[list[Call], Any]:
    """Carry an operation through, with what *answer* gives for each call: what is to be told, or an error's body."""
    patience = Patience(total=5.0, retries=0, clock=lambda: 0.0, jitter=lambda: 0.0)
    talk, calls, outcome = converse(operation, patience), [], None
    try:
        while True:
            step = talk.send(outcome)
            assert isinstance(step, Send)
            calls.append(step.call)
            said = answer(step.call)
            if isinstance(said, ServiceError):
                status, _, body = wire.problem_response(said, "request-1")
                outcome = Answer(status, {}, body)
            else:
                outcome = Answer(200, {}, msgspec.json.encode(said))
    except StopIteration as done:
        return calls, done.value


def asked(call: Call) -> list[str]:
    """Return the names, or the primary keys, that a call asks for."""
    said = msgspec.json.decode(call.body)
    return said["names"] if "names" in said else [record["address"] for record in said["records"]]


TOO_MUCH: dict[str, tuple[Callable[[list[str]], Operation[Any]], Callable[[list[str]], object]]] = {
    "get_secrets": (
        operations.get_secrets,
        lambda names: {name: {"type": "simple", "value": name} for name in names},
    ),
    "get_many": (
        lambda names: operations.get_many(Host, names),
        lambda names: records(*(Host.new(address=name) for name in names)),
    ),
    "get_texts": (
        lambda names: operations.get_texts(Host, names),
        lambda names: records(*(Host.new(address=name) for name in names)),
    ),
    "read_bulk": (
        bulk_operations.read_bulk,
        lambda names: wire.BulkEntries(entries=[wire.BulkEntry(value=name, etag='"1"') for name in names]),
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_for_one_answer_is_asked_for_in_halves(name: str) -> None:
    """Each name is answered once and stands in its place, however small the parts in which it had to be asked for."""
    operation, answers = TOO_MUCH[name]
    wanted = [f"h{number}" for number in range(11)]

    calls, found = converse_with(
        operation([*wanted, "h3"]),
        lambda call: TooLarge("") if len(asked(call)) > 3 else answers(asked(call)),
    )

    answered = [asked(call) for call in calls if len(asked(call)) <= 3]
    assert [name for some in answered for name in some] == wanted
    assert len(calls) == 7
    if name == "get_secrets":
        assert [secret.reveal() for secret in found.values()] == list(found) == wanted
    else:
        tell: Callable[[Any], str] = {
            "get_many": lambda each: each.model.address,
            "get_texts": lambda each: json.loads(each.text.reveal())["address"],
            "read_bulk": lambda each: each.value.reveal(),
        }[name]
        assert [tell(each) for each in found] == [*wanted, "h3"]


@pytest.mark.parametrize("name", TOO_MUCH)
def test_one_that_is_too_much_alone_is_an_error(name: str) -> None:
    """Where halving helps no more, it is `TooLarge`."""
    with pytest.raises(TooLarge):
        converse_with(TOO_MUCH[name][0](["a", "b"]), lambda _: TooLarge(""))


def test_many_records_are_written_by_the_thousand() -> None:
    """Records to save or to remove go a thousand a request, in order, each with its tag."""
    hosts = [Host.new(address=f"h{number}") for number in range(2100)]
    tags = [f'"{number + 1}"' for number in range(2100)]
    keys = [host.address for host in hosts]
    texts = [Secret(host.to_json().decode()) for host in hosts]

    def answer(call: Call) -> object:
        said = msgspec.json.decode(call.body)
        assert [int(tag.strip('"')) - 1 for tag in said["etags"]] == [int(each[1:]) for each in asked(call)]
        if call.path.endswith("delete"):
            return wire.DeletedAnswer(deleted=[True] * len(said["records"]))
        return wire.RecordsAnswer(records=said["records"], etags=said["etags"])

    for operation in (
        operations.save_many(hosts, etags=tags),
        operations.save_texts(Host, texts, etags=tags),
        operations.delete_many(Host, keys, etags=tags),
    ):
        calls, done = converse_with(operation, answer)
        assert [len(asked(call)) for call in calls] == [1000, 1000, 100]
        assert {call.effect for call in calls} == {Effect.GUARDED}
        assert len(done) == 2100


UNREADABLE: dict[str, tuple[Callable[[], Operation[Any]], object]] = {
    "no JSON": (lambda: operations.get(Host, "a"), b"<html>"),
    "no UTF-8": (lambda: operations.get_secret("db", "p"), b'{"type": "simple", "value": "\xff"}'),
    "nested without end": (lambda: operations.get(Host, "a"), b'{"records": ' + b"[" * 100_000),
    "another shape": (lambda: operations.get(Host, "a"), {"records": "none"}),
    "fewer records than asked for": (lambda: operations.get_many(Host, ["a", "b"]), records(HOST)),
    "fewer etags than records": (
        lambda: operations.get(Host, "a"),
        wire.RecordsAnswer(records=[HOST.to_dict()], etags=[]),
    ),
    "a record that is none": (lambda: operations.get(Host, "a"), wire.RecordsAnswer(records=[{"x": 1}], etags=['"1"'])),
    "fewer texts than asked for": (lambda: operations.get_texts(Host, ["a", "b"]), records(HOST)),
    "a saved text without its tag": (lambda: operations.save_texts(Host, [TEXT]), records(None)),
    "fewer tags than texts": (lambda: operations.save_texts(Host, [TEXT]), records()),
    "nothing saved": (lambda: operations.save(HOST), records(None)),
    "fewer deletions than asked for": (lambda: operations.delete(Host, "a"), wire.DeletedAnswer(deleted=[])),
    "a message without value": (lambda: operations.get_secret("db", "p"), {"type": "simple"}),
    "a new key without the key": (
        lambda: operations.create_apikey("ci"),
        wire.ApiKeyInfo(id="ci", paths=[], actions=[], created=""),
    ),
}


@pytest.mark.parametrize("story", UNREADABLE)
def test_an_answer_that_is_none_is_an_error_and_is_not_quoted(story: str) -> None:
    """What cannot be read is `Internal`, with no parser's error, and so no document, hanging on it."""
    operation, body = UNREADABLE[story]

    with pytest.raises(errors.Internal) as caught:
        run(operation(), body)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "operation", [lambda: operations.get(Host, "a"), lambda: operations.delete(Host, "a")], ids=["get", "delete"]
)
def test_one_record_that_is_not_there_is_not_found(operation: Callable[[], Operation[Any]]) -> None:
    """The `_many` forms answer with a gap, the single ones raise."""
    body = {"records": [None], "etags": [None], "deleted": [False]}

    with pytest.raises(errors.NotFound):
        run(operation(), body)


def test_bytes_come_back_as_bytes_and_text_does_not() -> None:
    """What was stored as bytes is held in base64; other text is refused rather than guessed at."""
    assert StoredSecret(Secret("AP8="), '"1"').reveal_bytes() == b"\x00\xff"
    for text in ("not base64!", "pässword"):
        with pytest.raises(ValueError, match="stored as text"):
            StoredSecret(Secret(text), '"1"').reveal_bytes()
