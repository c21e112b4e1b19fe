"""What each operation on keys sends, how it reads the answer, and that nothing of a key is shown on the way."""

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service import errors, wire
from strongroom.storage_service.client import AsyncStorageClient, NewKeys, StorageClient, key_operations
from strongroom.storage_service.client.retries import Answer, Call, Effect, Operation
from strongroom.storage_service.wire import keys

JSON = {"Content-Type": "application/json"}
KID = "root.0123456789abcdef"
CANARY = "SR1-CANAR-Y0000"
MADE = keys.KeysMade(root=KID, mode="unlock", keys=[CANARY])
NEW_KEYS = NewKeys(KID, "unlock", [Secret(CANARY)], None)
STEP = keys.Reencrypted(moved=2, overtaken=1, unreadable=["secrets/a"], after="system/usage/x")
STATUS = keys.KeyringStatus(state="locked", wrong_keys=2, wait=0.5)
SCAN = keys.Scan(
    by_kid={"default.1": 1}, by_generation={"default.1": 1}, missing=0, stale=0, unreadable=[], repaired=True
)
READ, WRITE = Effect.READ, Effect.WRITE


def run(operation: Operation[Any], body: object) -> tuple[Call, Any]:
    """Answer the one call of *operation* with *body*; return the call and the result."""
    call = next(operation)
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    try:
        operation.send(Answer(200, {}, raw))
    except StopIteration as done:
        return call, done.value
    raise AssertionError("it asks again")


# operation, its answer; the call it makes: method, path below /keyring, effect, body; its result
CALLS: dict[str, tuple[Operation[Any], object, str, str, Effect, object, object]] = {
    "keyring": (key_operations.keyring(), STATUS, "GET", "", READ, None, STATUS),
    "init_keyring": (
        key_operations.init_keyring("shares", total=3, needed=2, keys=4),
        MADE,
        *("POST", "/init", WRITE, {"mode": "shares", "total": 3, "needed": 2, "keys": 4, "again": False}, NEW_KEYS),
    ),
    "unlock with what is secret": (
        key_operations.unlock(Secret("words")),
        *(b"", "POST", "/unlock", WRITE, {"text": "words"}, None),
    ),
    "unlock with nothing": (key_operations.unlock(), b"", "POST", "/unlock", WRITE, {"text": None}, None),
    "lock and forget": (key_operations.lock(forget=True), b"", "POST", "/forget", WRITE, None, None),
    "lock": (key_operations.lock(), b"", "POST", "/lock", WRITE, None, None),
    "prepare_root": (
        key_operations.prepare_root("file", keep_file=True),
        MADE,
        *("POST", "/root", WRITE, {"mode": "file", "total": 5, "needed": None, "keep_file": True}, NEW_KEYS),
    ),
    "confirm_root": (
        key_operations.confirm_root(KID, "words"),
        *(b"", "POST", f"/root/{KID}", Effect.GUARDED, {"text": "words"}, None),
    ),
    "take_back_keyring": (key_operations.take_back_keyring(KID), b"", "DELETE", f"/init/{KID}", WRITE, None, None),
    "abandon_root": (key_operations.abandon_root(KID), b"", "DELETE", f"/root/{KID}", WRITE, None, None),
    "list_keysets": (key_operations.list_keysets(), [], "GET", "/keysets", READ, None, []),
    "create_keyset": (
        key_operations.create_keyset("hosts", keys=3),
        *(b"", "POST", "/keysets", WRITE, {"name": "hosts", "keys": 3}, None),
    ),
    "remove_keyset": (key_operations.remove_keyset("hosts"), b"", "DELETE", "/keysets/hosts", WRITE, None, None),
    "rotate_keyset": (
        key_operations.rotate_keyset("hosts"),
        *(b"", "POST", "/keysets/hosts/rotate", WRITE, {"keys": None}, None),
    ),
    "revert_keyset": (key_operations.revert_keyset("hosts"), b"", "POST", "/keysets/hosts/revert", WRITE, None, None),
    "assign_keyset": (
        key_operations.assign_keyset("db/primary/", "hosts"),
        *(b"", "POST", "/assign", WRITE, {"container": "secrets/db/primary/", "keyset": "hosts"}, None),
    ),
    "reencrypt": (
        key_operations.reencrypt("hosts", "system/usage/a", limit=10),
        *(STEP, "POST", "/reencrypt", READ),
        {"keyset": "hosts", "after": "system/usage/a", "limit": 10, "resume": False, "pace": 1.0},
        STEP,
    ),
    "resume_keyset": (
        key_operations.resume_keyset("hosts", leave_unreadable=True),
        *(b"", "POST", "/resume", WRITE, {"keyset": "hosts", "leave_unreadable": True}, None),
    ),
    "retire_generation": (
        key_operations.retire_generation("default.1"),
        *(b"", "POST", "/retire", WRITE, {"generation": "default.1"}, None),
    ),
    "key_usage": (
        key_operations.key_usage(),
        {"counted": True, "generations": {"default.1": 7}},
        *("GET", "/usage", READ, None, keys.KeyUsage(counted=True, generations={"default.1": 7})),
    ),
    "scan_key_usage": (
        key_operations.scan_key_usage(repair=True),
        *(SCAN, "POST", "/usage/scan", READ, {"repair": True}, SCAN),
    ),
    "list_backups": (key_operations.list_backups(), [], "GET", "/backups", READ, None, []),
    "register_backup": (
        key_operations.register_backup("monday"),
        *(b"", "POST", "/backups", WRITE, {"label": "monday"}, None),
    ),
    "forget_backup": (key_operations.forget_backup("monday"), b"", "DELETE", "/backups/monday", WRITE, None, None),
    "export_keyring": (key_operations.export_keyring(), b"{}", "POST", "/export", READ, None, b"{}"),
}


@pytest.mark.parametrize("story", CALLS)
def test_asks_what_it_says_and_reads_the_answer(story: str) -> None:
    """Each operation makes the call of its row, and gives the row's result."""
    operation, body, method, path, effect, content, result = CALLS[story]
    call, got = run(operation, body)

    assert (call.method, call.path, call.effect) == (method, "/keyring" + path, effect)
    assert (msgspec.json.decode(call.body) if call.body else None) == content
    assert dict(call.headers) == (JSON if call.body else {})
    assert got == result


@pytest.mark.parametrize("face", [StorageClient, AsyncStorageClient])
def test_both_faces_offer_all_of_it(face: type) -> None:
    """Every operation of this page is a method of both clients, with the operation's own text."""
    offered = [name for name, each in vars(key_operations).items() if inspect.isgeneratorfunction(each)]

    assert len(offered) >= 20
    for name in offered:
        assert getattr(face, name).__doc__ == getattr(key_operations, name).__doc__


@pytest.mark.parametrize(
    "operation",
    [
        lambda: key_operations.rotate_keyset("../lock"),
        lambda: key_operations.remove_keyset("a/b"),
        lambda: key_operations.confirm_root("..", "x"),
        lambda: key_operations.forget_backup("a b"),
        lambda: key_operations.assign_keyset("../system", "default"),
    ],
)
def test_what_would_be_another_path_is_not_sent(operation: Callable[[], Operation[Any]]) -> None:
    """A name that is none raises, and no call is made."""
    with pytest.raises(InvalidName):
        next(operation())


def test_nothing_of_a_key_is_shown() -> None:
    """Neither the call that carries one, nor the answer, nor what is made of them tells it in its repr."""
    call = next(key_operations.unlock(CANARY))
    said = [repr(call), repr(NEW_KEYS), repr(MADE), repr(keys.Typed(text=CANARY))]

    assert [text for text in said if "CANAR" in text] == []


@pytest.mark.parametrize(
    "error",
    [
        errors.Halted("default could not be reverted", ("default.2: secrets/a",)),
        errors.InUse("hosts is in use", ("secrets/hosts/",)),
        errors.TooManyAttempts("Wrong keys were given; wait before the next", 8.0),
        errors.Unusable("there is no root key file; restore it"),
    ],
)
def test_what_an_error_tells_crosses_the_socket(error: errors.ServiceError) -> None:
    """Reason, holders and seconds come back as they were sent."""
    status, _, body = wire.problem_response(error, "request-1")
    got = wire.error_of(status, body)

    assert type(got) is type(error)
    advice = {"next": row.next} if (row := wire.problem_of(error)).next else {}
    assert (str(got), vars(got)) == (str(error), vars(error) | {"told": True} | advice)
