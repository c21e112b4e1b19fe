"""The file: what goes in comes out, and nothing that was cut, bent or put together comes out at all."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.storage_service.backup.form import Head, Reader, Writer, rows_said
from strongroom.storage_service.errors import ConfigurationError, Invalid

HEAD = Head(version="0", label="one", taken="2026-11-30T07:33:12Z", store="any", revision=7, keyring={"what": "…"})
ROWS = {"hosts/a": b'{"a":"\\u00e9"}', "secrets/db/": b"", "secrets/db/x": b"eyJh.b.c", "system/odd": b"\xff\x00\n"}


def written(rows: dict[str, bytes], head: Head = HEAD) -> bytes:
    """Return a file of *rows*, in the order given."""
    file = io.BytesIO()
    writer = Writer(file, head)
    writer.add(rows.items())
    writer.end()
    return file.getvalue()


def read(text: bytes) -> dict[str, bytes]:
    """Return all rows of a file that is whole."""
    reader = Reader(io.BytesIO(text))
    rows = dict(reader.rows())
    assert reader.end is not None
    return rows


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.from_regex(r"[a-z0-9/:.@+-]{1,20}", fullmatch=True), st.binary(max_size=60)))
def test_what_goes_in_comes_out(rows: dict[str, bytes]) -> None:
    """Any names in order, with any bytes, come back as they were, and one content has one form."""
    ordered = dict(sorted(rows.items()))
    text = written(ordered)

    assert read(text) == ordered
    assert written(read(text)) == text
    assert rows_said(io.BytesIO(text)) == len(rows)


def test_it_can_be_read_without_us() -> None:
    """Every line is JSON; the secrets' lines have the names and values that the store has."""
    lines = [json.loads(line) for line in written(ROWS).splitlines()]

    assert [line.get("name") for line in lines[1:-1]] == list(ROWS)
    assert lines[3] == {"name": "secrets/db/x", "value": "eyJh.b.c"}


def test_a_file_that_was_cut_is_refused_wherever() -> None:
    """Of every beginning of a file it is told that it was cut short, or is no backup; no cut passes for an end."""
    text = written(ROWS)

    for length in range(len(text)):
        with pytest.raises(Invalid, match=r"cut short|not a backup|not of the accepted form"):
            read(text[:length])


def test_a_bent_bit_is_found_wherever() -> None:
    """No bit of a file can be other than it was written: head, rows, checksums and line breaks."""
    text = written(ROWS)

    for place in range(len(text)):
        for bit in range(8):
            bent = bytearray(text)
            bent[place] ^= 1 << bit
            with pytest.raises((Invalid, ConfigurationError)) as caught:
                read(bytes(bent))
            assert "eyJh" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({"b": b"", "a": b""}, "row 2 is not in its place"),
        ({"a": b"x" * (1024 * 1024 + 1)}, "row 1 is not of the accepted form"),
        ({"é": b""}, "row 1 is not of the accepted form"),
        ({"": b""}, "row 1 is not"),
        ({"a" * 1025: b""}, "row 1 is not of the accepted form"),
    ],
    ids=["order", "size", "characters", "empty", "length"],
)
def test_rows_are_measured(rows: dict[str, bytes], why: str) -> None:
    """A row that no store could have, or out of order, is refused though the checksums are right."""
    with pytest.raises(Invalid, match=why):
        read(written(rows))


def test_what_follows_the_end_is_refused() -> None:
    """Two files one after the other are not one."""
    with pytest.raises(Invalid, match="something follows its end"):
        read(written(ROWS) + written(ROWS))


def test_a_row_has_one_spelling() -> None:
    """A row that says the same in other words is refused."""
    text = written({"a": b"x"})

    with pytest.raises(Invalid, match="row 1"):
        read(text.replace(b'{"name":"a","value":"x"}', b'{"name":"a","octets":"eA=="}'))


def test_a_later_format_is_named() -> None:
    """A file of a later version is told from a damaged one."""
    with pytest.raises(ConfigurationError, match="a later version wrote it"):
        read(written(ROWS).replace(b'"format":1', b'"format":2', 1))


@pytest.mark.parametrize("inner", [b"[", b'{"a":'])
def test_a_head_nested_without_end_is_no_backup(inner: bytes) -> None:
    """A head that is nested deeper than a parser goes is refused as any other that is none."""
    with pytest.raises(Invalid, match="that is not a backup"):
        read(b'{"what":"strongroom backup","keyring":' + inner * 100_000)


@pytest.mark.parametrize("text", [b"", b"\n", b"[]\n", b'{"what":"strongroom keyring"}\n', b"\x00" * 100])
def test_other_files_are_no_backups(text: bytes) -> None:
    """What is no backup is told so."""
    with pytest.raises(Invalid, match="that is not a backup"):
        read(text)
