"""The map of names is the only place where a prefix is spelled, and docs/formats.md shows it as it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from strongroom.models import MODELS, names
from strongroom.models.names import Encryption
from strongroom.storage_service import wire
from strongroom.storage_service.wire import message

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("models", "storage_service", "http_proxy", "migration", "deploy", "strongroom")
SOURCES: Final = sorted(
    path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not path.name.endswith("_pb2.py")
)
NAMES: Final = "models/names.py"
WIRE: Final = "storage_service/wire/__init__.py"
MESSAGE: Final = "storage_service/wire/message.py"

_ROW: Final = re.compile(r"^\| `([^`]+)` \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


def literals(source: str) -> Iterator[str]:
    """Yield every text that *source* spells, octets among them, but not what its docstrings explain."""
    tree = ast.parse(source)
    explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in explained:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def tails() -> Iterator[str]:
    """Yield what somebody would write behind a shorter prefix, to spell one of the map a second time."""
    for line in names.MAP:
        segments = line.text.split("/")
        yield from ("/".join(segments[start:]) for start in range(1, len(segments) - 1))


TAILS: Final = frozenset(tails())
BEGUN: Final = re.compile(rf"(?:\W*\s)?(?:{names.SECRETS}|{names.SYSTEM})")


def spelled_again(text: str) -> str | None:
    """Return the module that *text* belongs to, if it is one of what a single module spells."""
    if text in TAILS or BEGUN.match(text) or f" {names.SECRETS}" in text:
        return NAMES
    if wire.API_PATH in text:
        return WIRE
    if text == message.SIMPLE or re.search(r'"type": *"simple"', text):
        return MESSAGE
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_spelled_a_second_time(path: Path) -> None:
    """No module but its own spells a prefix of the map, the API's path, or the form of a message."""
    here = str(path.relative_to(ROOT))
    found = {text: owner for text in literals(path.read_text()) if (owner := spelled_again(text)) not in (None, here)}
    assert not found


@pytest.mark.parametrize(
    ("source", "owner"),
    [
        ('X = "system/usage/"', NAMES),
        ('X = SYSTEM + "usage/"', NAMES),
        ('X = f"{SYSTEM}access/apikeys/"', NAMES),
        ('X = ACCESS + "apikeys/"', NAMES),
        ('X = f"secrets/{name}"', NAMES),
        ('X = "its name is in secrets/"', NAMES),
        ('X = "system/whoami"', NAMES),
        ('X = "/api/v0/hosts"', WIRE),
        ('X = f"/api/v0/host/{name}"', WIRE),
        ('X = {"type": "simple"}', MESSAGE),
        ("""X = b'{"type":"simple","value":%s}'""", MESSAGE),
        ('"""An explanation of secrets/hosts/ and /api/v0."""', None),
        ('X = "/secrets"', None),
    ],
)
def test_a_second_spelling_is_found(source: str, owner: str | None) -> None:
    """What the test above looks for is found in every way that it can be written."""
    assert {spelled_again(text) for text in literals(source)} - {None} == ({owner} if owner else set())


def test_the_page_shows_the_map() -> None:
    """The table of names in docs/formats.md has the lines of the map, all of them and no others, in their order."""
    page = (ROOT / "docs" / "formats.md").read_text().partition("## Names")[2].partition("\n## ")[0]
    assert _ROW.findall(page) == [(line.form, line.holds, line.reader, str(line.encryption)) for line in names.MAP]


def test_every_prefix_that_is_spelled_has_a_line() -> None:
    """Every constant of the module that is a prefix or a name is one of the map, or what one of it begins with."""
    constants = {
        name: value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and re.match(r"(secrets|system)/", value)
    }
    assert {"SECRETS", "KEYRING", "TOMBSTONES", "WHOAMI"} <= constants.keys()
    for name, value in constants.items():
        assert any(line.text.startswith(value) for line in names.MAP), name


def test_what_data_keys_encrypt_lies_where_the_map_says() -> None:
    """A line is encrypted under data keys if and only if it lies below what is named for that, containers apart."""
    for line in names.MAP:
        below = line.text.startswith(names.ENCRYPTED) and not names.is_container(line.form)
        assert below == (line.encryption is Encryption.DATA), line


def test_no_plain_records_are_called_as_what_has_a_place() -> None:
    """The first segments of the map are reserved, and no model has one of them for its records' container."""
    assert {"secrets", "system"} == names.RESERVED
    assert {model.plural for model in MODELS.values()}.isdisjoint(names.RESERVED)
