"""The content encryption: against the vectors, against jwcrypto's, and against the RFC composed a second time."""

import json
from typing import Final

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwa import JWA

from strongroom.storage_service.errors import Locked
from strongroom.storage_service.jose.content_encryption import ContentEncryption
from tests.jose.reference import IV, VECTORS_FOLDER, ReferenceCipher

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
def test_we_write_and_read_the_vector(vector: tuple[bytes, ...]) -> None:
    """With the vector's key and IV we give its ciphertext and tag, byte by byte, and open them again."""
    key, iv, aad, msg, ct, tag = vector

    assert ContentEncryption(key).encrypt(aad, msg, iv) == (ct, tag)
    assert ContentEncryption(key).decrypt(aad, iv, ct, tag) == msg


def test_a_key_of_half_the_size_writes_its_vector() -> None:
    """With 32 bytes it is A128CBC-HS256, byte by byte as RFC 7518 B.1 has it."""
    _, iv, aad, msg, _, _ = B3
    cipher = ContentEncryption(bytes(range(32)))  # the key of B.1; all else of it is as in B.3

    ct, tag = cipher.encrypt(aad, msg, iv)

    assert ct.hex().startswith("c80edfa32ddf39d5ef00c0b468834279a2e46a1b8049f792f76bfe54b903a9c9")
    assert ct.hex().endswith("4b8851ffb598f7f80074b9473c82e2db")
    assert tag.hex() == "652c3fa36b0a7c5b3219fab3a30bc1c4"
    assert cipher.decrypt(aad, iv, ct, tag) == msg


values = given(key=st.binary(min_size=64, max_size=64), aad=st.binary(max_size=80), msg=st.binary(max_size=120))
bounded = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@bounded
@values
def test_we_write_what_the_reference_writes(key: bytes, aad: bytes, msg: bytes) -> None:
    """The two compositions of the RFC give the same bytes, and each opens the other's."""
    iv, ct, tag = ReferenceCipher().encrypt(key, aad, msg)

    assert ContentEncryption(key).encrypt(aad, msg, iv) == (ct, tag)
    assert ContentEncryption(key).decrypt(aad, iv, ct, tag) == ReferenceCipher().decrypt(key, aad, iv, ct, tag) == msg


@bounded
@given(
    key=st.sampled_from([32, 64]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    aad=st.binary(max_size=80),
    msg=st.binary(max_size=120),
)
def test_jwcrypto_reads_what_we_write_and_the_reverse(key: bytes, aad: bytes, msg: bytes) -> None:
    """Jwcrypto's primitive opens ours, and we open jwcrypto's, with a key of either size."""
    oracle = JWA.encryption_alg("A256CBC-HS512" if len(key) == 64 else "A128CBC-HS256")
    ct, tag = ContentEncryption(key).encrypt(aad, msg, IV)

    assert oracle.decrypt(key, aad, IV, ct, tag) == msg
    assert ContentEncryption(key).decrypt(aad, *oracle.encrypt(key, aad, msg)) == msg


def test_one_key_serves_many_values() -> None:
    """What is made once a key is not used up: values after the first open like it."""
    cipher = ContentEncryption(B3[0])

    sealed = [cipher.encrypt(b"a", bytes([number]), IV) for number in range(20)]

    assert [cipher.decrypt(b"a", IV, *each) for each in sealed] == [bytes([number]) for number in range(20)]


@pytest.mark.parametrize("padded", [b"", b"\x00" * 16, b"\x11" * 16, b"a" * 14 + b"\x01\x02", b"a" * 16])
def test_wrong_padding_under_a_right_tag_is_nonsense(padded: bytes) -> None:
    """A holder of the key who pads wrongly writes nothing that opens."""
    _, ct, tag = ReferenceCipher(pad=False).encrypt(B3[0], b"", padded)

    with pytest.raises(ValueError, match="padding"):
        ContentEncryption(B3[0]).decrypt(b"", IV, ct, tag)


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_a_key_of_another_size_is_none(size: int) -> None:
    """A key is 64 bytes, or Custodia's 32."""
    with pytest.raises(ValueError, match="64 bytes"):
        ContentEncryption(bytes(size))


def test_a_wiped_key_is_overwritten_and_refused() -> None:
    """Wiping zeroes the bytes that the cipher itself works with, and no value is written under those zeros."""
    key, iv, aad, msg, ct, tag = B3
    cipher = ContentEncryption(bytearray(key))
    octets = cipher._aes.key
    assert octets == key[32:]

    cipher.wipe()

    assert cipher._aes.key is octets
    assert octets == bytes(32)
    for act in (lambda: cipher.encrypt(aad, msg, iv), lambda: cipher.decrypt(aad, iv, ct, tag)):
        with pytest.raises(Locked, match="dropped"):
            act()
    assert ContentEncryption(key).decrypt(aad, iv, ct, tag) == msg


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
            pytest.fail(f"{story}: {ContentEncryption(key).decrypt(aad, iv, ct, tag)!r}")
