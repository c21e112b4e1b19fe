"""What crosses the socket may be secret, and is shown nowhere."""

import inspect
from types import ModuleType
from typing import get_type_hints

import msgspec
import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.wire import keys, message

CANARY = "canary-5f1d"
SECRET = {"value", "key", "text", "records", "keys", "document", "export"}  # what a member is called that may hold one
OPEN = {
    ("KeysAnswer", "keys"),
    ("Keyset", "keys"),
    ("Intent", "key"),
    ("Status", "keys"),
}  # names of records, and ids of keys


def _bodies(module: ModuleType) -> list[type[msgspec.Struct]]:
    found = inspect.getmembers(module, lambda each: inspect.isclass(each) and issubclass(each, msgspec.Struct))
    return [each for _, each in found]


def _counts(body: type[msgspec.Struct], member: str) -> bool:
    return get_type_hints(body)[member] in {int, int | None, bool}


@pytest.mark.parametrize(
    ("body", "member"),
    [
        pytest.param(body, member, id=f"{body.__name__}-{member}")
        for module in (wire, keys, message)
        for body in _bodies(module)
        for member in body.__struct_fields__
        if member in SECRET and (body.__name__, member) not in OPEN and not _counts(body, member)
    ],
)
def test_a_body_shows_no_secret(body: type[msgspec.Struct], member: str) -> None:
    """Whatever a member that may be secret holds is not in the body's repr, nor in that of a list of bodies."""
    made = body(**{name: CANARY if name == member else "plain" for name in body.__struct_fields__})
    if member in {"records", "keys"}:
        setattr(made, member, [CANARY])

    assert CANARY not in repr([made])
