"""The content encryption: jwcrypto's primitive against the vectors, and against the RFC composed a second time."""

import json
from typing import Final

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_service.keyring.envelope import A256CBC_HS512
from tests.keyring.reference import VECTORS_FOLDER, ReferenceCipher

FIELDS: Final = ("key", "iv", "aad", "msg", "ct", "tag")
VECTORS: Final = {
    f"{vector['source']} {vector['id']}": tuple(bytes.fromhex(vector[field]) for field in FIELDS)
    for vector in json.loads((VECTORS_FOLDER / "a256cbc_hs512.json").read_bytes())["vectors"]
}
each_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
B3: Final = VECTORS["rfc7518 B.3"]


@each_vector
def test_the_reference_writes_the_vector(vector: tuple[bytes, ...]) -> None:
    """With the vector's key and IV the reference gives its ciphertext and tag, byte by byte."""
    key, iv, aad, msg, ct, tag = vector

    assert ReferenceCipher(iv).encrypt(key, aad, msg) == (iv, ct, tag)


@each_vector
def test_the_primitive_reads_the_vector(vector: tuple[bytes, ...]) -> None:
    """The primitive we use opens every vector."""
    key, iv, aad, msg, ct, tag = vector

    assert A256CBC_HS512.decrypt(key, aad, iv, ct, tag) == msg


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(key=st.binary(min_size=64, max_size=64), aad=st.binary(max_size=80), msg=st.binary(max_size=120))
def test_the_primitive_writes_what_the_reference_writes(key: bytes, aad: bytes, msg: bytes) -> None:
    """Given the IV the primitive drew, the reference writes the same bytes: so the primitive keeps the vectors too."""
    iv, ct, tag = A256CBC_HS512.encrypt(key, aad, msg)

    assert len(iv) == 16
    assert ReferenceCipher(iv).encrypt(key, aad, msg) == (iv, ct, tag)
    assert ReferenceCipher().decrypt(key, aad, iv, ct, tag) == msg


def test_the_primitive_draws_an_iv_each_time() -> None:
    """No IV comes twice."""
    key, _, aad, msg, _, _ = B3

    assert len({A256CBC_HS512.encrypt(key, aad, msg)[0] for _ in range(200)}) == 200


MODIFIED_TAGS: Final = {
    **{f"bit {bit} flipped": (int.from_bytes(B3[5]) ^ 1 << bit).to_bytes(32) for bit in range(256)},
    "all bits flipped": bytes(byte ^ 0xFF for byte in B3[5]),
    "all zero": bytes(32),
    "all ones": b"\xff" * 32,
    "halves swapped": B3[5][16:] + B3[5][:16],
    "reversed": B3[5][::-1],
    "cut to a half": B3[5][:16],
    "one byte short": B3[5][:-1],
    "one byte long": B3[5] + b"\x00",
    "empty": b"",
}


def test_modified_tags_are_refused() -> None:
    """A tag changed in any one bit, cut, grown or replaced is refused before anything is decrypted."""
    key, iv, aad, _, ct, _ = B3
    for story, tag in MODIFIED_TAGS.items():
        with pytest.raises(InvalidSignature):
            pytest.fail(f"{story}: {A256CBC_HS512.decrypt(key, aad, iv, ct, tag)!r}")
