"""What is encrypted, as it is stored: what each operation sends, and how both faces fare with the real service."""

import inspect
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models.hosts import HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service import errors, wire
from strongroom.storage_service.client import AsyncStorageClient, StorageClient, bulk_operations
from strongroom.storage_service.client.address import read_home
from strongroom.storage_service.client.bulk_operations import BulkValue, Remove, Require, Write
from strongroom.storage_service.client.retries import Answer, Call, Effect, Operation

CANARY = "cAnArY-5ea1"
COMMITTED = wire.BulkCommitted(etag='"7"')
PAGE = wire.BulkPage(names=["secrets/a/"], more=True)


def run(operation: Operation[Any], body: object) -> tuple[Call, Any]:
    """Answer the one call of *operation* with *body*; return the call and the result."""
    call = next(operation)
    try:
        operation.send(Answer(200, {}, msgspec.json.encode(body)))
    except StopIteration as done:
        return call, done.value
    raise AssertionError("it asks again")


def change(name: str, **said: object) -> dict[str, object]:
    """A change as it is sent."""
    return {"name": name, "value": None, "etag": None, "check": False} | said


# operation, its answer; the call it makes: method, path below /bulk, effect, body; its result
CALLS: dict[str, tuple[Operation[Any], object, str, str, Effect, object, object]] = {
    "limit": (bulk_operations.bulk_limit(), wire.BulkLimits(max_changes=42), "GET", "", Effect.READ, None, 42),
    "read": (
        bulk_operations.read_bulk(["secrets/a/b", "system/journal/x"]),
        wire.BulkEntries(entries=[None, wire.BulkEntry(value="v", etag='"7"')]),
        *("POST", "/read", Effect.READ, {"names": ["secrets/a/b", "system/journal/x"]}),
        [None, BulkValue(Secret("v"), '"7"')],
    ),
    "list": (
        bulk_operations.list_bulk("secrets/", "secrets/a", 10),
        PAGE,
        *("POST", "/list", Effect.READ, {"prefix": "secrets/", "after": "secrets/a", "limit": 10}, PAGE),
    ),
    "commit at tags": (
        bulk_operations.commit_bulk([Write("a", Secret("v"), '"1"'), Remove("b", '"2"'), Require("c", wire.NEW)]),
        COMMITTED,
        *("POST", "/commit", Effect.GUARDED),
        {
            "changes": [
                change("a", value="v", etag='"1"'),
                change("b", etag='"2"'),
                change("c", etag='"0"', check=True),
            ]
        },
        '"7"',
    ),
    "commit over whatever is there": (
        bulk_operations.commit_bulk([Write("a", Secret("v"), '"1"'), Remove("b")]),
        COMMITTED,
        *("POST", "/commit", Effect.WRITE, {"changes": [change("a", value="v", etag='"1"'), change("b")]}, '"7"'),
    ),
    "commit over anything that is there": (
        bulk_operations.commit_bulk([Write("a", Secret("v"), "*")]),
        COMMITTED,
        *("POST", "/commit", Effect.WRITE, {"changes": [change("a", value="v", etag="*")]}, '"7"'),
    ),
}


@pytest.mark.parametrize("story", CALLS)
def test_asks_what_it_says_and_reads_the_answer(story: str) -> None:
    """Each operation makes the call of its row, and gives the row's result."""
    operation, body, method, path, effect, content, result = CALLS[story]
    call, got = run(operation, body)

    assert (call.method, call.path, call.effect) == (method, "/bulk" + path, effect)
    assert (msgspec.json.decode(call.body) if call.body else None) == content
    assert got == result
    assert CANARY not in repr(call)


def test_an_answer_to_another_question_is_refused() -> None:
    """As many entries as names, or none of them is believed."""
    with pytest.raises(errors.Internal):
        run(bulk_operations.read_bulk(["secrets/a/b"]), wire.BulkEntries(entries=[]))


def test_nothing_is_asked_of_nothing() -> None:
    """To read no names takes no question."""
    with pytest.raises(StopIteration) as done:
        next(bulk_operations.read_bulk([]))
    assert done.value.value == []


@pytest.mark.parametrize("face", [StorageClient, AsyncStorageClient])
def test_both_faces_offer_all_of_it(face: type) -> None:
    """Every operation of this page is a method of both clients, with the operation's own text."""
    offered = [
        name
        for name, each in vars(bulk_operations).items()
        if inspect.isfunction(each) and each.__module__ == bulk_operations.__name__ and not name.startswith("_")
    ]

    assert len(offered) == 4
    for name in offered:
        assert getattr(face, name).__doc__ == getattr(bulk_operations, name).__doc__


def test_a_move_from_beginning_to_end(client: Any, container: str) -> None:
    """What one commit writes, every other way of reading finds; and another takes it away again."""
    place, journal = f"secrets/{container}/", f"system/journal/{container}"
    assert client.bulk_limit() >= 4  # other tests rotate keys
    tag = client.commit_bulk(
        [
            Write(place, Secret(""), wire.NEW),
            Write(place + "password", Secret("hunter2 ✓"), wire.NEW),
            Write(journal, Secret(CANARY)),
        ]
    )

    assert client.get_secret(container, "password") == (Secret("hunter2 ✓"), tag)
    assert client.read_bulk([place + "none", place, journal]) == [
        None,
        BulkValue(Secret(""), tag),
        BulkValue(Secret(CANARY), tag),
    ]
    assert client.list_bulk(place) == wire.BulkPage(names=[place, place + "password"], more=False)
    with pytest.raises(errors.Changed):
        client.commit_bulk([Write(place + "password", Secret("other"), wire.NEW)])
    with pytest.raises(errors.NotEmpty):
        client.commit_bulk([Remove(place)])

    client.commit_bulk([Remove(place + "password", tag), Remove(journal, tag), Require(place, tag)])
    client.commit_bulk([Remove(place, tag)])
    with pytest.raises(errors.NoContainer):
        client.commit_bulk([Write(place + "password", Secret("late"))])
    assert client.list_bulk(place).names == []


def test_a_record_is_read_as_it_is_stored(client: Any) -> None:
    """Of a secret model it is the base64 of its JSON, and written so it is the record again."""
    client.save(HostCreds(address="10.9.7.1", ssh_priv_key=Secret("c2VjcmV0")))
    (stored,) = client.read_bulk(["secrets/hosts/10.9.7.1"])
    client.delete(HostCreds, "10.9.7.1")
    client.commit_bulk([Write("secrets/hosts/10.9.7.1", stored.value)])

    assert client.get(HostCreds, "10.9.7.1").model.ssh_priv_key.reveal() == "c2VjcmV0"
    client.delete(HostCreds, "10.9.7.1")


def test_a_key_with_limits_is_refused(client: Any, connect: Callable[..., Any], strongroom_server: Server) -> None:
    """All of the secrets is not everything."""
    issued = client.create_apikey(f"limited-{secrets.token_hex(4)}", paths=["/secrets", "/system"])
    limited = connect(socket=strongroom_server.socket, api_id=issued.api_id, api_key=issued.api_key)

    for ask in (
        limited.bulk_limit,
        lambda: limited.read_bulk(["secrets/a/b"]),
        lambda: limited.list_bulk("secrets/"),
        lambda: limited.commit_bulk([Remove("secrets/a/b")]),
    ):
        with pytest.raises(errors.Denied):
            ask()
    client.revoke_apikey(issued.api_id)


def test_it_is_on_the_socket_alone(client: Any, connect: Callable[..., Any], strongroom_server: Server) -> None:
    """Through the proxy it is not offered."""
    remote = connect(url=strongroom_server.url, api_id="x", api_key="y")
    with pytest.raises(errors.NotImplementedHere):
        remote.bulk_limit()


def test_a_body_that_is_none_is_not_repeated(strongroom_server: Server) -> None:
    """Whatever is wrong with it, the answer says what it should have been."""
    _, caller = read_home(strongroom_server.home)
    headers = caller.fields()
    transport = httpx.HTTPTransport(uds=str(strongroom_server.socket))
    with httpx.Client(transport=transport, base_url="http://socket", headers=headers) as raw:
        for body in (
            b"",
            b"\xff" + CANARY.encode(),
            b'{"changes":[{"name":"secrets/a/b","value":"\\ud800' + CANARY.encode() + b'"}]}',
            b'{"changes":[{"name":"secrets/a/b","value":7,"x":"' + CANARY.encode() + b'"}]}',
            b'{"changes":' + b"[" * 50_000,
        ):
            answer = raw.post("/bulk/commit", content=body)
            assert answer.status_code == 400
            assert answer.json()["detail"] == "the body is not a BulkCommit: see docs/http-api.md"
            assert CANARY not in answer.text
        answer = raw.post("/bulk/commit", content=b" " * (wire.MAX_BODY + 1))
        assert answer.status_code == 413
