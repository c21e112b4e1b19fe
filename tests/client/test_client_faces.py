"""What both faces put on a connection, and what they make of a connection that breaks."""

import inspect
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from strongroom.deploy.tools.faces import SOURCE, WRITTEN, blocking
from strongroom.models.hosts import Host, HostCreds, Hosts
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service import errors, wire
from strongroom.storage_service.client import AsyncStorageClient, StorageClient, operations
from strongroom.storage_service.client.retries import Effect
from strongroom.storage_service.errors import Fate, Unavailable
from tests.client.scripted_service import (
    Act,
    CloseAfterReading,
    CloseUnread,
    CloseWithinAnswer,
    Drip,
    Reply,
    ScriptedService,
    Silence,
    paths,
)

Connect = Callable[..., Any]

CANARY = "cAnArY-51e7"

STATUS = Reply(
    msgspec.json.encode(
        wire.Status(
            version="1",
            state="unlocked",
            store="memory",
            keys=["k.1"],
            active_key="k.1",
            endpoints={"secrets": "/secrets/"},
        )
    )
)


def stored(*records: Host | HostCreds | None, etag: str = '"7"', more: bool = False) -> Reply:
    """The answer that holds *records*."""
    found = [None if record is None else record.to_dict() for record in records]
    tags = [None if record is None else etag for record in records]
    return Reply(msgspec.json.encode(wire.RecordsAnswer(records=found, etags=tags, more=more)))


HOST = Host.new(address="10.0.0.7", status="active")


def test_the_blocking_face_is_the_other_one() -> None:
    """The blocking face is what the tool writes from the face for event loops, which is where both are changed."""
    assert blocking(SOURCE.read_text()) == WRITTEN.read_text(), "run make format"


def read(client: Any) -> object:
    return client.get_secret("db", "password")


def write(client: Any) -> object:
    return client.set_secret("db", "password", "hunter2")


def guarded(client: Any) -> object:
    return client.set_secret("db", "password", "hunter2", etag='"7"')


# what happened, and whether it is known that a write was not applied
TROUBLES: dict[str, tuple[Act, Fate]] = {
    "the request is not read": (CloseUnread(), Fate.NOT_APPLIED),
    "no answer comes": (CloseAfterReading(), Fate.UNKNOWN),
    "the answer is slow": (Silence(), Fate.UNKNOWN),
    "the answer of success is cut": (CloseWithinAnswer(200), Fate.APPLIED),
    "the answer of failure is cut": (CloseWithinAnswer(503), Fate.UNKNOWN),
    "the answer never ends": (Drip(), Fate.APPLIED),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("act", [read, write, guarded])
def test_a_broken_connection_is_unavailable_with_the_fate_of_the_write(
    service: ScriptedService, connect: Connect, trouble: str, act: Callable[[Any], object]
) -> None:
    """However the connection breaks, the caller is told what became of the write; a read was never applied."""
    happens, fate = TROUBLES[trouble]
    service.script(happens)
    client = connect(socket=service.path, retries=0, timeout=0.2)

    with pytest.raises(Unavailable) as caught:
        act(client)
    assert caught.value.fate is (Fate.NOT_APPLIED if act is read else fate)


def test_a_write_that_could_not_be_sent_to_its_end_is_sent_again(service: ScriptedService, connect: Connect) -> None:
    """Nobody acts on half a request, so even a plain write goes once more when the service left in its middle."""
    service.script(CloseUnread(), CloseUnread(), Reply(b"", 201, {"ETag": '"7"'}))
    client = connect(socket=service.path)

    assert client.set_secret("db", "key.pem", b"x" * 500_000) == '"7"'
    assert service.connections == 3


@pytest.mark.parametrize("act", [read, write, guarded])
def test_no_listener_is_unavailable_and_nothing_was_applied(
    short_path: Path, connect: Connect, act: Callable[[Any], object]
) -> None:
    """A socket that is not there, or whose owner is gone, says so, and names the socket."""
    client = connect(socket=short_path / "nobody", retries=0)

    with pytest.raises(Unavailable, match="nobody does not listen") as caught:
        act(client)
    assert caught.value.fate is Fate.NOT_APPLIED


def test_the_error_holds_no_request(service: ScriptedService, connect: Connect) -> None:
    """No error of the library below, which would hold the request and with it the key, hangs on ours."""
    service.script(CloseAfterReading())

    with pytest.raises(Unavailable) as caught:
        write(connect(socket=service.path, retries=0))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


EXISTS = 'the secret exists already; pass the etag that you read, or etag="*", to replace it'


@pytest.mark.parametrize("code", wire.PROBLEMS)
def test_every_error_of_the_wire_comes_back_as_itself(service: ScriptedService, connect: Connect, code: str) -> None:
    """What the service raises is what the caller gets: class, text, faults and fate, and of which record and request.

    Where the service speaks of HTTP, the text speaks of the library's arguments.
    """
    kind = wire.PROBLEMS[code].error
    raised = kind("reason")
    if isinstance(raised, errors.Invalid):
        raised.faults = (("address", "is not an address"),)
    elif isinstance(raised, Unavailable):
        raised.fate = Fate.APPLIED
    raised.next = (Step("unlock it", "key unlock", {"socket": "/s"}),)
    status, headers, body = wire.problem_response(raised, "request-1")
    service.script(Reply(body, status, {name.decode(): value.decode() for name, value in headers}))

    with pytest.raises(kind) as caught:
        write(connect(socket=service.path, retries=0))
    assert type(caught.value) is kind
    said = "reason" if wire.PROBLEMS[code].detail else wire.PROBLEMS[code].title
    assert caught.value.text == (EXISTS if code == "exists" else said)
    assert (caught.value.name, len(caught.value.request_id)) == ("secrets/db/password", 24)
    assert str(caught.value) == (f"{caught.value.text} (secrets/db/password, request {caught.value.request_id})")
    assert getattr(caught.value, "faults", None) == getattr(raised, "faults", None)
    assert getattr(caught.value, "fate", None) == getattr(raised, "fate", None)
    assert caught.value.next == (raised.next if wire.PROBLEMS[code].detail else wire.PROBLEMS[code].next)


def test_steps_of_another_version_are_left_out() -> None:
    """Of an answer's steps those are told that this version knows, whatever else stands there."""
    known = {"reason": "unlock it", "verb": "key unlock", "options": {}}
    for others in ([{"reason": "x", "verb": "key bury"}], [{"reason": 1}], ["unlock"], [None]):
        body = msgspec.json.encode({"type": "urn:strongroom:problem:locked", "next": [*others, known]})
        assert wire.error_of(503, body).next == (Step("unlock it", "key unlock"),)
    nothing: tuple[object, ...] = ("unlock", {}, 7, None)
    for none in nothing:
        assert wire.error_of(503, msgspec.json.encode({"next": none})).next == ()


def test_repeats_over_a_new_connection(service: ScriptedService, connect: Connect) -> None:
    """A read that is cut off is read again, over another connection."""
    service.script(CloseAfterReading(), CloseWithinAnswer(), STATUS)

    assert connect(socket=service.path).status().state == "unlocked"
    assert service.connections == 3


def test_pauses_as_the_rules_say(service: ScriptedService, connect: Connect) -> None:
    """The pause that the rules ask for is made by the sleep that was handed in."""
    pauses: list[float] = []

    class Slept:
        """Fits both faces: called, and awaited if one likes."""

        def __call__(self, seconds: float) -> "Slept":
            pauses.append(seconds)
            return self

        def __await__(self) -> Iterator[None]:
            return iter(())

    service.script(Reply(b"{}", 503, {"Retry-After": "5"}))
    away = wire.problem_body(Unavailable("away", Fate.NOT_APPLIED), "request-1")
    service.script()
    client = connect(socket=service.path, sleep=Slept(), jitter=lambda: 1.0)
    with pytest.raises(errors.Locked):
        client.status()  # the first problem with status 503 and no type of ours

    service.script(Reply(away, 503, {"Retry-After": "5"}), Reply(away, 503), STATUS)
    client.status()
    assert pauses == [5.05, 0.1]


def test_says_who_asks_on_every_request(service: ScriptedService, connect: Connect) -> None:
    """Id, key and the one it is done for stand in the header, and a new id of the request; no more than that."""
    service.script(STATUS, STATUS)
    client = connect(socket=service.path, api_id="ci", api_key=Secret("k1"), on_behalf_of="user:alice")
    client.status()
    client.status()

    ids = {heard.headers.pop("x-request-id") for heard in service.heard}
    assert len(ids) == 2
    assert all(wire.REQUEST_ID.fullmatch(request_id) for request_id in ids)
    assert service.heard[0].headers == {
        "host": "strongroom",
        "accept-encoding": "identity",
        "user-agent": "strongroom",
        "custodia-auth-id": "ci",
        "custodia-auth-key": "k1",
        "strongroom-on-behalf-of": "user:alice",
    }


def test_acting_for_another_shares_the_connections(service: ScriptedService, connect: Connect) -> None:
    """A client made for another caller uses the same connection, and closing it closes nothing."""
    service.script(STATUS, STATUS, STATUS)
    client = connect(socket=service.path, api_id="proxy", api_key="k")
    client.status()
    bob = client.acting_for("user:bob", headers={"X-Request-ID": "request-0001"})
    carol = client.acting_for(api_id="carol", api_key="c")
    bob.status()
    bob.close()
    carol.status()

    assert service.connections == 1
    said = [
        tuple(heard.headers.get(name) for name in ("custodia-auth-id", "strongroom-on-behalf-of"))
        for heard in service.heard
    ]
    assert said == [("proxy", None), ("proxy", "user:bob"), ("carol", None)]
    ids = [heard.headers["x-request-id"] for heard in service.heard]
    assert [request_id == "request-0001" for request_id in ids] == [False, True, False]


def test_pages_are_asked_for_when_needed(service: ScriptedService, connect: Connect) -> None:
    """A listing asks for its next page, after the last key of the one before, when that is used up."""
    other = Host.new(address="10.0.0.8")
    service.script(stored(HOST, more=True), stored(other))
    listing = connect(socket=service.path).list(Hosts)

    assert service.heard == []
    assert next(listing).model == HOST
    assert len(service.heard) == 1
    assert next(listing) == (other, '"7"')
    assert next(listing, None) is None
    asked = [msgspec.json.decode(heard.body) for heard in service.heard]
    page = {"model": "Hosts", "source": "", "keys": False, "limit": 1000}
    assert asked == [page | {"after": after} for after in (None, "10.0.0.7")]


def test_edit_saves_at_the_revision_it_read(service: ScriptedService, connect: Connect) -> None:
    """The change goes out guarded by the etag that the record was read with."""
    service.script(stored(HOST), stored(HOST))
    with connect(socket=service.path).edit(Host, "10.0.0.7") as host:
        host.status = "failed"

    assert paths(service.heard) == ["POST /storage/get", "POST /storage/save"]
    saved = msgspec.json.decode(service.heard[1].body)
    assert saved["records"][0]["status"] == "failed"
    assert saved["etags"] == ['"7"']


def test_edit_saves_nothing_when_the_block_raises(service: ScriptedService, connect: Connect) -> None:
    """An exception leaves the store as it was, and reaches the caller."""
    service.script(stored(HOST))
    client = connect(socket=service.path)

    with pytest.raises(ZeroDivisionError), client.edit(Host, "10.0.0.7") as host:
        host.cpus = 1 // 0
    assert paths(service.heard) == ["POST /storage/get"]


def test_edit_does_not_move_a_record(service: ScriptedService, connect: Connect) -> None:
    """Changing the primary key would write another record; nothing is saved."""
    service.script(stored(HOST))
    client = connect(socket=service.path)

    with pytest.raises(ValueError, match="primary key"), client.edit(Host, "10.0.0.7") as host:
        host.address = "10.0.0.8"
    assert paths(service.heard) == ["POST /storage/get"]


def test_no_secret_in_any_log_or_repr(
    service: ScriptedService, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at DEBUG, neither the API key nor a secret that is sent or received is logged or shown."""
    caplog.set_level(logging.DEBUG)
    encoded = b64encode(CANARY.encode()).decode()
    creds = HostCreds.new(address="10.0.0.7", ssh_priv_key=encoded)
    service.script(
        stored(creds),
        stored(creds),
        Reply(msgspec.json.encode({"type": "simple", "value": CANARY}), headers={"ETag": '"1"'}),
        Reply(b"", 201, {"ETag": '"2"'}),
        Reply(msgspec.json.encode({"db/p": {"type": "simple", "value": CANARY}})),
        Reply(
            msgspec.json.encode(
                wire.ApiKeyInfo(id="ci", paths=["/"], actions=["get"], created="2026-11-22T09:30:00Z", key=CANARY)
            )
        ),
        CloseAfterReading(),
        Reply(b'{"type":"simple","value":["' + CANARY.encode() + b'"]}'),
    )
    client = connect(socket=service.path, api_key=CANARY)

    shown = [
        repr(client),
        repr(client.save(creds)),
        repr(client.get(HostCreds, "10.0.0.7")),
        repr(client.get_secret("db", "p")),
        repr(client.set_secret("db", "p", CANARY)),
        repr(client.get_secrets(["db/p"])),
        repr(client.create_apikey("ci")),
    ]
    for kind in (Unavailable, errors.Internal):
        with pytest.raises(kind) as caught:
            client.set_secret("db", "p", CANARY.encode()) if kind is Unavailable else client.get_secret("db", "p")
        shown.append(repr(caught.value))
        assert caught.value.__context__ is None
    everything = "\n".join([*shown, caplog.text])
    assert CANARY not in everything
    assert encoded not in everything


def test_repr_shows_socket_and_api_id(connect: Connect) -> None:
    """The operator's view of a client."""
    client = connect(socket="/run/strongroom/storage.sock", api_id="ci", api_key=CANARY)

    assert repr(client).endswith("StorageClient /run/strongroom/storage.sock, api id ci>")


def test_help_shows_each_operation_as_it_is() -> None:
    """Name, text and signature of a method are those of its operation, on both faces."""
    for face in (StorageClient, AsyncStorageClient):
        for name in ("get", "save_many", "set_secret", "create_apikey"):
            method, operation = getattr(face, name), getattr(operations, name)
            assert method.__doc__ == operation.__doc__
            assert list(inspect.signature(method).parameters)[1:] == list(inspect.signature(operation).parameters)
    assert str(inspect.signature(StorageClient.whoami)) == "(self) -> strongroom.storage_service.wire.WhoAmI"


def test_both_faces_offer_the_same() -> None:
    """Whatever one face has, the other has too."""
    blocking, awaiting = (
        {name for name in dir(face) if not name.startswith("_")} for face in (StorageClient, AsyncStorageClient)
    )

    assert blocking == awaiting


def test_every_effect_is_a_story() -> None:
    """The three acts above are the three effects a call can have."""
    assert {act.__name__ for act in (read, write, guarded)} == {effect.name.lower() for effect in Effect}
