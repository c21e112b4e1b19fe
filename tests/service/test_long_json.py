"""What is long in JSON is read and written in a thread, so that the event loop goes on."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from strongroom.models import strict_json
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.http import answering, bulk, records


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each document that is parsed from now on is parsed in this thread."""
    here: list[bool] = []
    decode, own = strict_json.decode, threading.get_ident()

    def told(text: bytes, most: int = strict_json.MAX_STRUCTURE) -> Any:
        here.append(threading.get_ident() == own)
        return decode(text, most)

    monkeypatch.setattr(strict_json, "decode", told)
    return here


@pytest.mark.parametrize(
    ("text", "here"),
    [
        (b'"x"', True),
        (b'"' + b"\\n" * (strict_json.SHORT // 2 - 1) + b'"', True),
        (b'"' + b"\\n" * (strict_json.SHORT // 2) + b'"', False),
        (b"[" + b"0," * (strict_json.SHORT_STRUCTURE - 1) + b"0]", True),
        (b"[" + b"0," * strict_json.SHORT_STRUCTURE + b"0]", False),
    ],
)
async def test_what_is_not_short_is_parsed_elsewhere(threads: list[bool], text: bytes, here: bool) -> None:
    """Up to so many bytes and marks a body is parsed on the event loop, and beyond in a thread, with one result."""
    assert await answering.decoded(text) == msgspec.json.decode(text)
    assert threads == [here]


async def test_what_is_refused_in_a_thread_is_refused_as_ever(threads: list[bool]) -> None:
    """A long body that is none says so, without a word of it."""
    with pytest.raises(Invalid) as caught:
        await answering.decoded(b'{"canary":' * strict_json.SHORT_STRUCTURE)
    assert threads == [False]
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("read", [records._split, bulk._NAMES._read], ids=["records", "names of what is sealed"])
@pytest.mark.parametrize("text", [b"[" * 60_000, b'{"records":' + b"[" * 60_000, b'{"\xff":', b'{"names":["\xff"]}'])
def test_what_no_parser_can_read_is_the_senders_fault(read: Callable[[bytes], object], text: bytes) -> None:
    """A body that is nested without end, or is not UTF-8, is refused like every other that is none."""
    with pytest.raises(Invalid):
        read(text)


@pytest.mark.parametrize(
    "said",
    [
        wire.BulkEntries(entries=[wire.BulkEntry(value='a\n"é', etag='"1"'), None]),
        wire.BulkEntries(entries=[]),
        wire.RecordsAnswer(records=[{"a": 1}, None], etags=['"1"', None], more=True),
    ],
)
def test_an_answer_made_in_parts_is_the_whole(said: msgspec.Struct) -> None:
    """Written element by element, an answer is what it is when written at once."""
    assert answering._encoded(said) == msgspec.json.encode(said)
