"""base64url: what goes in comes out, and nothing else is let in."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.storage_service.jose.base64url import decode, encode

bounded = settings(max_examples=300, deadline=None, database=None, derandomize=True)


@bounded
@given(st.binary(max_size=200))
def test_it_is_the_standard_encoding_without_padding(value: bytes) -> None:
    """It writes what the standard library writes, less the padding, and reads it back."""
    text = encode(value)

    assert text == base64.urlsafe_b64encode(value).rstrip(b"=")
    assert decode(text) == value


@bounded
@given(st.text("ABQgwxyz0189-_", max_size=9))
def test_what_is_accepted_is_the_only_spelling(text: str) -> None:
    """Whatever it reads, it would have written just so; the rest is refused."""
    try:
        value = decode(text.encode())
    except ValueError:
        return

    assert encode(value) == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"A",
        b"AAAAA",
        b"AA==",
        b"AAA=",
        b"=",
        b"====",
        b"AA=A",
        b"A A",
        b" AAAA",
        b"AAAA\n",
        b"AA\tAA",
        b"AA+A",
        b"AA/A",
        b"AB",
        b"AAB",
        b'AA"A',
        b'AA",',
        b"AA\\A",
        b"AA.A",
        b"AA\x00A",
        b"AA\xffA",
        "AAÄA".encode(),
        b"\\u0041AA",
    ],
    ids=repr,
)
def test_what_is_refused(text: bytes) -> None:
    """Wrong lengths, padding, white space, the other alphabet, leftover bits and any other byte are refused."""
    with pytest.raises(ValueError, match="base64url"):
        decode(text)
