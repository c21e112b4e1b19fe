"""What each operation on users, services and groups sends, what it reads, and that the service does as it says."""

import itertools
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.client import NewCredential, access_operations
from strongroom.storage_service.client.address import Address
from strongroom.storage_service.client.retries import Answer, Call, Effect, Operation
from strongroom.storage_service.errors import Denied, Exists, Internal, InUse, Invalid, NotFound
from strongroom.storage_service.wire import access as wire

CANARY: Final = "canary-5f1d-long-enough"
READ, WRITE = Effect.READ, Effect.WRITE
INFO: Final = wire.PrincipalInfo(principal="user:ann", state="active")
GROUP: Final = wire.GroupInfo(name="ops")
ADDED: Final = wire.AddedPrincipal(principal="user:ann", administrator=True, first=True, code=CANARY, expires="t")
SHOWN: Final = wire.CredentialInfo(id="1", kind="process", name="p", created="t", shown={"uid": "1"})
PAGE: Final = wire.PrincipalPage(principals=[INFO], more=True)
UID: Final = NewCredential("process", "1")

# operation, its answer; the call it makes: method, path, effect, body; its result
CALLS: Final[dict[str, tuple[Operation[Any], object, str, str, Effect, object, object]]] = {
    "list_principals": (
        access_operations.list_principals("service", "ann", limit=2),
        *(PAGE, "GET", "/access/services/?limit=2&after=ann", READ, None),
        access_operations.PrincipalPage([INFO], "ann"),
    ),
    "get_principal": (access_operations.get_principal("user:ann"), INFO, "GET", "/access/users/ann", READ, None, INFO),
    "add_principal": (
        access_operations.add_principal("user:ann", [UID], admin=True, note="n", window=60),
        *(ADDED, "PUT", "/access/users/ann", WRITE),
        {"admin": True, "note": "n", "window": 60, "credentials": [{"kind": "process", "data": "1"}]},
        access_operations.AddedPrincipal("user:ann", Secret(CANARY), "t", administrator=True, first=True),
    ),
    "remove_principal": (
        access_operations.remove_principal("service:r"),
        *(b"", "DELETE", "/access/services/r", WRITE, None, None),
    ),
    "disable_principal": (
        access_operations.disable_principal("user:ann"),
        *(b"", "PUT", "/access/users/ann/disabled", WRITE, None, None),
    ),
    "enable": (
        access_operations.disable_principal("user:ann", disabled=False),
        *(b"", "DELETE", "/access/users/ann/disabled", WRITE, None, None),
    ),
    "add_credential": (
        access_operations.add_credential("user:ann", NewCredential("password", Secret("p"), "n", "t", hashed=True)),
        *(SHOWN, "POST", "/access/users/ann/credentials/", WRITE),
        {"kind": "password", "data": "p", "name": "n", "expires": "t", "hashed": True},
        SHOWN,
    ),
    "remove_credential": (
        access_operations.remove_credential("user:ann", "laptop"),
        *(b"", "DELETE", "/access/users/ann/credentials/laptop", WRITE, None, None),
    ),
    "end_tokens": (
        access_operations.end_tokens("user:ann"),
        *(b"", "DELETE", "/access/users/ann/tokens", WRITE, None, None),
    ),
    "end_tokens in a while": (
        access_operations.end_tokens("user:ann", "1h30m"),
        *(b"", "DELETE", "/access/users/ann/tokens?in=1h30m", WRITE, None, None),
    ),
    "set_up": (
        access_operations.set_up("user:ann", Secret("c"), UID),
        *(b"", "POST", "/access/setup", WRITE),
        *({"principal": "user:ann", "code": "c", "credential": {"kind": "process", "data": "1"}}, None),
    ),
    "list_groups": (access_operations.list_groups(), [GROUP], "GET", "/access/groups/", READ, None, [GROUP]),
    "get_group": (access_operations.get_group("ops"), GROUP, "GET", "/access/groups/ops", READ, None, GROUP),
    "add_group": (
        access_operations.add_group("ops", note="n"),
        *(b"", "PUT", "/access/groups/ops", WRITE, {"note": "n"}, None),
    ),
    "remove_group": (access_operations.remove_group("ops"), b"", "DELETE", "/access/groups/ops", WRITE, None, None),
    "add_member": (
        access_operations.add_member("ops", "user:ann", manager=True),
        *(b"", "PUT", "/access/groups/ops/members/user:ann", WRITE, {"role": "manager"}, None),
    ),
    "remove_member": (
        access_operations.remove_member("ops", "apikey:ci"),
        *(b"", "DELETE", "/access/groups/ops/members/apikey:ci", WRITE, None, None),
    ),
}


def run(operation: Operation[Any], body: object) -> tuple[Call, Any]:
    """Answer the one call of *operation* with *body*; return the call and the result."""
    call = next(operation)
    try:
        operation.send(Answer(200, {}, body if isinstance(body, bytes) else msgspec.json.encode(body)))
    except StopIteration as done:
        return call, done.value
    raise AssertionError("it asks again")


@pytest.mark.parametrize("story", CALLS)
def test_an_operation_on_access_asks_what_it_says(story: str) -> None:
    """Method, path, effect and body are these, and so is what it makes of the answer."""
    operation, body, method, path, effect, sent, result = CALLS[story]

    call, told = run(operation, body)

    assert (call.method, call.path, call.effect) == (method, path, effect)
    assert (json.loads(call.body) if call.body else None) == sent
    assert told == result
    assert CANARY not in repr(told)


@pytest.mark.parametrize(
    "principal", ["ann", "group:ops", "apikey:ci", "user:", "user:a/b", "user:../x", "user:a b", ""]
)
def test_who_is_nobody_is_not_asked_for(principal: str) -> None:
    """What is no user or service, and what would lead elsewhere, is refused before anything is sent."""
    for operation in (
        access_operations.get_principal(principal),
        access_operations.set_up(principal, "c", UID),
        access_operations.remove_principal(principal),
    ):
        with pytest.raises(InvalidName):
            next(operation)
    for member in ("user:ann/x", "../x"):
        with pytest.raises(InvalidName):
            next(access_operations.add_member("ops", member))
    with pytest.raises(InvalidName):
        next(access_operations.end_tokens("user:ann", "1h&x=1"))


def test_an_answer_that_does_not_fit_is_not_quoted() -> None:
    """An answer of another form is an error that repeats nothing of it."""
    with pytest.raises(Internal) as caught:
        run(access_operations.add_principal("user:ann"), {"code": CANARY})

    assert CANARY not in str(caught.value)


def test_access_has_a_path_through_the_proxy() -> None:
    """What is below /access on the socket is below /api/v0/access behind a URL."""
    assert Address(url="https://example.net/x").path_of("/access/setup") == "/x/api/v0/access/setup"


@pytest.mark.parametrize("given", [NewCredential("password", CANARY), NewCredential("password", Secret(CANARY))])
def test_what_is_given_is_not_shown(given: NewCredential) -> None:
    """Neither the repr of a credential nor of a body has what it is made of."""
    sent = wire.NewCredential(kind="password", data=CANARY)
    setup = wire.Setup(principal="user:ann", code=CANARY, credential=sent)

    assert CANARY not in repr([given, sent, setup, wire.NewPrincipal(credentials=[sent]), ADDED])


# The real service

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"person{next(_numbers)}"


def test_a_life(client: Any, connect: Callable[..., Any], strongroom_server: Server, name: str) -> None:
    """Somebody is added, sets itself up with other credentials than any, is shut out, let in, and removed."""
    ann, group = f"user:{name}", f"of-{name}"
    made = client.add_principal(ann, note="the first")
    assert made.code is not None
    stranger = connect(socket=strongroom_server.socket, api_id="nobody", api_key="none")
    with pytest.raises(Denied):
        stranger.get_principal(ann)
    with pytest.raises(Denied):
        stranger.set_up(ann, "wrong", UID)
    stranger.set_up(ann, made.code, NewCredential("password", CANARY, "pw"))
    with pytest.raises(Denied):
        stranger.set_up(ann, made.code, NewCredential("password", CANARY, "again"))
    uri = f"spiffe://example.net/{name}"
    kept = client.add_credential(ann, NewCredential("certificate", uri, expires="2099-01-01T00:00:00Z"))
    assert kept.shown == {"uri": uri}
    client.add_group(group)
    client.add_member(group, ann, manager=True)

    found = client.get_principal(ann)

    assert (found.state, found.groups, found.note) == ("active", {group: "manager"}, "the first")
    assert [each.kind for each in found.credentials] == ["password", "certificate"]
    assert CANARY not in repr(found)
    assert client.get_group(group).members == {ann: "manager"}
    client.disable_principal(ann)
    assert client.get_principal(ann).state == "disabled"
    client.disable_principal(ann, disabled=False)
    client.end_tokens(ann, "10m")
    client.remove_credential(ann, "pw")
    with pytest.raises(InUse):
        client.remove_credential(ann, kept.id)
    client.remove_principal(ann)
    assert client.get_group(group).members == {}
    with pytest.raises(Exists):
        client.add_principal(f"service:{name.upper()}")
    with pytest.raises(Exists):
        client.create_apikey(name)
    client.remove_group(group)
    with pytest.raises(NotFound):
        client.get_group(group)


def test_listings_follow_each_other(client: Any, name: str) -> None:
    """Users are told a page at a time, in order, and services apart."""
    for number in range(3):
        client.add_principal(f"user:{name}-{number}")
    first = client.list_principals("user", name, limit=2)
    assert first.after == f"{name}-1"
    second = client.list_principals("user", first.after, limit=1)

    assert [each.principal for each in (*first.principals, *second.principals)] == [
        f"user:{name}-{number}" for number in range(3)
    ]
    assert not [each for each in client.list_principals("service").principals if name in each.principal]


def test_a_right_comes_before_a_body(
    client: Any, connect: Callable[..., Any], strongroom_server: Server, name: str
) -> None:
    """Who may not is told so whatever the body is, and a body that cannot be is told to who may, without its text."""
    key = client.create_apikey(f"narrow-{name}", paths=["/system/access"])
    narrow = connect(socket=strongroom_server.socket, api_id=key.api_id, api_key=key.api_key)
    odd = NewCredential("nothing", CANARY)
    for act in (
        lambda who: who.add_principal(f"user:{name}", [odd]),
        lambda who: who.add_credential(f"user:{name}", odd),
    ):
        with pytest.raises(Denied):
            act(narrow)
        with pytest.raises((Invalid, NotFound)) as caught:
            act(client)
        assert CANARY not in str(caught.value)
    assert narrow.list_principals("user").principals is not None  # it may look

    audit = Path(strongroom_server.home / "log" / "audit.log").read_text()
    assert CANARY not in audit


DEEP: Final = b"[" * 5_000 + b"]" * 5_000


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        (
            "POST",
            json.dumps({"principal": "user:x", "code": CANARY, "credential": {"kind": CANARY, "data": CANARY}}),
            403,
        ),
        ("POST", json.dumps({"principal": CANARY, "code": CANARY, "credential": {"kind": "a", "data": "b"}}), 400),
        ("POST", json.dumps({"principal": "user:x", "code": CANARY, "credential": {"kind": "a"}, "admin": True}), 400),
        ("POST", f"{CANARY}", 400),
        ("POST", json.dumps({"code": ["[" * 5_000]}), 400),
        ("POST", DEEP.decode(), 400),
        ("POST", json.dumps({"code": CANARY * 1_000}), 413),
        ("GET", "", 405),
        ("DELETE", "", 405),
    ],
    ids=["no code", "nobody", "another form", "no JSON", "another", "deep", "long", "get", "delete"],
)
def test_what_strangers_send(strongroom_server: Server, method: str, body: str, status: int) -> None:
    """Without any credentials a stranger reaches the setup alone, within its limits, and nothing of it is repeated."""
    audit = strongroom_server.home / "log" / "audit.log"
    for path, expected in (("/access/setup", status), ("/access/users/", 401), ("/access/groups/", 401)):
        with socket.socket(socket.AF_UNIX) as to:
            to.connect(str(strongroom_server.socket))
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            to.sendall(head.encode() + body.encode())
            told = b"".join(iter(lambda: to.recv(65536), b""))  # read at once

        assert told.split()[1] == str(expected).encode()
        assert CANARY.encode() not in told
    assert CANARY not in audit.read_text()


def test_whoami_tells_groups(client: Any) -> None:
    """The own key is in none."""
    assert client.whoami().groups == []


def test_members_may_be_keys(client: Any, connect: Callable[..., Any], strongroom_server: Server, name: str) -> None:
    """An API key in a group is told so by whoami, and no longer when it was taken out."""
    key = client.create_apikey(name)
    client.add_group(f"of-{name}")
    client.add_member(f"of-{name}", f"apikey:{name}")
    other = connect(socket=strongroom_server.socket, api_id=key.api_id, api_key=key.api_key)
    assert other.whoami().groups == [f"of-{name}"]

    client.remove_member(f"of-{name}", f"apikey:{name}")

    assert other.whoami().groups == []
