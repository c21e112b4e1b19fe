"""The JWE: what is written, that jwcrypto agrees, and that nothing else opens, each thing for its own reason."""

import json
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwe import JWE, InvalidJWEData
from jwcrypto.jwk import JWK

from strongroom.models.names import MAX_NAME
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Locked, Undecipherable
from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.jwe import (
    MAX_VALUE,
    Reason,
    bound_name,
    decrypt,
    encrypt,
    kid_of,
    verified,
)
from strongroom.storage_service.keyring.ring import DataKey, Ring
from tests.jose.reference import KEY, NAME, OTHER, VECTORS_FOLDER, sealed

RING: Final = Ring([KEY, OTHER]).everywhere
VALUE: Final = b'{"type":"simple","value":"b3BlbiBzZXNhbWU="}'
HEADER: Final = b'{"alg":"dir","enc":"A256CBC-HS512","kid":"default.1","custodia.key":"keys/hosts/10.0.0.7"}'
CUSTODIAS: Final = b'{"alg":"dir","custodia.key":"keys/hosts/10.0.0.7","enc":"A256CBC-HS512"}'

bounded = settings(max_examples=150, deadline=None, database=None, derandomize=True)
names = st.from_regex(r"(secrets/)?[a-z][A-Za-z0-9._@:+-]{0,20}(/[A-Za-z0-9_@:+-]{1,20}){0,3}", fullmatch=True).filter(
    lambda name: not name.startswith("keys/")
)


def jwk(key: DataKey) -> JWK:
    return JWK(kty="oct", k=base64url.encode(key.reveal()).decode())


# What is written.


def test_the_golden_value() -> None:
    """Key, IV, name and value known, every byte of what is stored is known: the format does not drift."""
    golden = json.loads((VECTORS_FOLDER / "jwe.json").read_bytes())
    key = DataKey(golden["kid"], bytes.fromhex(golden["key"]))
    iv = bytes.fromhex(golden["iv"])

    assert encrypt(key, golden["name"], golden["value"].encode(), lambda _: iv).decode() == golden["token"]
    assert decrypt(Ring([key]).everywhere, golden["name"], golden["token"].encode()) == golden["value"].encode()


def test_the_header_says_how_by_which_key_and_where() -> None:
    """The header is the four members of the format in their order, and the key is not wrapped in the value."""
    protected, wrapped, *_ = encrypt(KEY, NAME, VALUE).split(b".")

    assert base64url.decode(protected) == HEADER
    assert wrapped == b""


@bounded
@given(name=names, value=st.binary(max_size=2000))
def test_what_is_encrypted_is_decrypted(name: str, value: bytes) -> None:
    """Every value, the empty one too, comes back under its name."""
    assert decrypt(RING, name, encrypt(KEY, name, value)) == value


def test_no_two_are_alike() -> None:
    """One value encrypted twice gives two texts that share nothing but the header."""
    first, second = encrypt(KEY, NAME, VALUE).split(b"."), encrypt(KEY, NAME, VALUE).split(b".")

    assert first[0] == second[0]
    assert all(one != other for one, other in zip(first[2:], second[2:], strict=True))


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("secrets/hosts/10.0.0.7", "keys/hosts/10.0.0.7"),
        ("secrets/a", "keys/a"),
        ("hosts/10.0.0.7", "hosts/10.0.0.7"),
        ("system/keyring/default.1", "system/keyring/default.1"),
        ("secretsX/a", "secretsX/a"),
    ],
)
def test_secrets_are_bound_as_custodia_names_them(name: str, bound: str) -> None:
    """``secrets/`` becomes Custodia's ``keys/``; other names are bound as they are."""
    assert bound_name(name) == bound
    assert decrypt(RING, name, encrypt(KEY, name, VALUE)) == VALUE


def test_no_two_names_are_bound_alike() -> None:
    """A name that begins with ``keys/`` would be bound like a secret, so it is neither written nor read."""
    with pytest.raises(ValueError, match="keys/"):
        encrypt(KEY, "keys/hosts/10.0.0.7", VALUE)
    with pytest.raises(Undecipherable) as caught:
        decrypt(RING, "keys/hosts/10.0.0.7", encrypt(KEY, NAME, VALUE))
    assert caught.value.reason == Reason.WRONG_NAME


def test_a_name_cannot_write_into_the_header() -> None:
    """Quotes in a name, which the grammar forbids anyway, stay inside the name."""
    name = 'x","kid":"default.2'
    token = encrypt(KEY, name, VALUE)

    assert json.loads(base64url.decode(token.split(b".")[0]))["custodia.key"] == name
    assert kid_of(token) == "default.1"
    assert decrypt(RING, name, token) == VALUE


def test_the_limits() -> None:
    """The largest value under the longest name and kid fits into a store; one byte more is refused, both ways."""
    key = DataKey(f"{'k' * 63}.123456789", bytes(64))
    name = "secrets/".ljust(MAX_NAME, "x")
    largest = bytes(MAX_VALUE)

    token = encrypt(key, name, largest)
    assert len(token) <= wire.MAX_STORED
    assert decrypt(Ring([key]).everywhere, name, token) == largest
    with pytest.raises(ValueError, match="at most"):
        encrypt(key, name, largest + b"\x00")
    with pytest.raises(ValueError, match="too long"):
        encrypt(key, name * 2, b"")
    assert MAX_VALUE > wire.MAX_SECRET * 4 / 3 + 100, "the largest secret, as base64 in a message, fits"


def test_a_wiped_key_opens_and_writes_nothing() -> None:
    """Under a key that was dropped nothing is written, and no value is taken for damaged: the service is locked."""
    dropped = DataKey("default.1", KEY.reveal())
    token = encrypt(dropped, NAME, VALUE)
    dropped.wipe()

    with pytest.raises(Locked):
        encrypt(dropped, NAME, VALUE)
    with pytest.raises(Locked):
        decrypt(Ring([dropped]).everywhere, NAME, token)
    assert decrypt(RING, NAME, token) == VALUE


# jwcrypto.jwe as oracle.


@bounded
@given(name=names, value=st.binary(min_size=1, max_size=3000), key=st.binary(min_size=64, max_size=64))
def test_jwcrypto_reads_what_we_write(name: str, value: bytes, key: bytes) -> None:
    """Every value of ours is a JWE to jwcrypto, with the same payload and header."""
    data_key = DataKey("default.7", key)
    oracle = JWE()

    oracle.deserialize(encrypt(data_key, name, value).decode(), jwk(data_key))

    assert oracle.payload == value
    assert oracle.jose_header == {
        "alg": "dir",
        "enc": "A256CBC-HS512",
        "kid": "default.7",
        "custodia.key": bound_name(name),
    }


@bounded
@given(name=names, value=st.binary(max_size=3000), key=st.binary(min_size=64, max_size=64))
def test_we_read_what_jwcrypto_writes(name: str, value: bytes, key: bytes) -> None:
    """Every JWE of jwcrypto's with our members, in whatever order, opens here."""
    data_key = DataKey("default.7", key)
    header = {"kid": "default.7", "custodia.key": bound_name(name), "enc": "A256CBC-HS512", "alg": "dir"}
    oracle = JWE(value, json.dumps(header), recipient=jwk(data_key))

    assert decrypt(Ring([data_key]).everywhere, name, oracle.serialize(compact=True).encode()) == value


def test_jwcrypto_cannot_read_nothing() -> None:
    """An empty value opens here and not in jwcrypto; values of Custodia's kind are messages and never empty."""
    token = encrypt(KEY, NAME, b"")

    assert decrypt(RING, NAME, token) == b""
    with pytest.raises(InvalidJWEData):
        JWE().deserialize(token.decode(), jwk(KEY))


# Values that name no key: Custodia's.


def test_values_without_a_kid_do_not_open() -> None:
    """Custodia writes no kid: under whichever key of the ring, its values do not open, and the error says why."""
    for key in (KEY, OTHER):
        token = sealed(CUSTODIAS, VALUE, key)
        assert kid_of(token) is None
        with pytest.raises(Undecipherable) as caught:
            decrypt(RING, NAME, token)
        assert caught.value.reason == Reason.NO_KID


# Tampering.

TOKEN: Final = encrypt(KEY, NAME, VALUE)
_P, _W, _IV, _C, _T = TOKEN.split(b".")
ANOTHER: Final = encrypt(KEY, NAME, VALUE).split(b".")


def joined(
    protected: bytes = _P, wrapped: bytes = _W, iv: bytes = _IV, ciphertext: bytes = _C, tag: bytes = _T
) -> bytes:
    return b".".join([protected, wrapped, iv, ciphertext, tag])


def header(**members: object) -> bytes:
    """Return a value under KEY with a right tag, whose header has these *members* beside or instead of ours."""
    return sealed(json.dumps(json.loads(HEADER) | members).encode(), VALUE)


def without(member: str) -> bytes:
    members = json.loads(HEADER)
    del members[member]
    return sealed(json.dumps(members).encode(), VALUE)


_RAW = base64url.decode(_C)

STORIES: Final[dict[str, tuple[bytes, Reason]]] = {
    # Whose tag is wrong: somebody without the key.
    "the kid of another key of the ring": (
        joined(protected=base64url.encode(HEADER.replace(b"default.1", b"default.2"))),
        Reason.WRONG_TAG,
    ),
    "the header spelled with a space": (
        joined(protected=base64url.encode(HEADER.replace(b",", b", "))),
        Reason.WRONG_TAG,
    ),
    "the IV of another value": (joined(iv=ANOTHER[2]), Reason.WRONG_TAG),
    "the ciphertext of another value": (joined(ciphertext=ANOTHER[3]), Reason.WRONG_TAG),
    "the tag of another value": (joined(tag=ANOTHER[4]), Reason.WRONG_TAG),
    "the first block cut off": (joined(ciphertext=base64url.encode(_RAW[16:])), Reason.WRONG_TAG),
    "the last block cut off": (joined(ciphertext=base64url.encode(_RAW[:-16])), Reason.WRONG_TAG),
    "a block doubled": (joined(ciphertext=base64url.encode(_RAW[:16] + _RAW)), Reason.WRONG_TAG),
    "two blocks swapped": (
        joined(ciphertext=base64url.encode(_RAW[16:32] + _RAW[:16] + _RAW[32:])),
        Reason.WRONG_TAG,
    ),
    "IV moved into the ciphertext": (
        joined(iv=base64url.encode(bytes(16)), ciphertext=base64url.encode(base64url.decode(_IV) + _RAW)),
        Reason.WRONG_TAG,
    ),
    "written by a stranger's key": (
        encrypt(DataKey("default.1", bytes(64)), NAME, VALUE),
        Reason.WRONG_TAG,
    ),
    # Whose tag is right: somebody with the key, or an attack on the header.
    "written under another name": (encrypt(KEY, "secrets/hosts/10.0.0.8", VALUE), Reason.WRONG_NAME),
    "written under the plain record's name": (encrypt(KEY, "hosts/10.0.0.7", VALUE), Reason.WRONG_NAME),
    "bound to a name that ours begins": (encrypt(KEY, NAME + "7", VALUE), Reason.WRONG_NAME),
    "bound to the name as it is stored": (header(**{"custodia.key": NAME}), Reason.WRONG_NAME),
    "bound to no name": (without("custodia.key"), Reason.WRONG_NAME),
    "a kid nobody knows": (encrypt(DataKey("default.3", KEY.reveal()), NAME, VALUE), Reason.UNKNOWN_KID),
    "a kid that is a path": (header(kid="../../etc/passwd"), Reason.UNKNOWN_KID),
    "an empty kid": (header(kid=""), Reason.UNKNOWN_KID),
    "no kid": (without("kid"), Reason.NO_KID),
    "a kid that is a number": (header(kid=1), Reason.MALFORMED),
    "a kid that is null": (header(kid=None), Reason.MALFORMED),
    "a kid that is a list": (header(kid=["default.1"]), Reason.MALFORMED),
    "alg none": (header(alg="none"), Reason.ALGORITHM),
    "alg A256KW": (header(alg="A256KW"), Reason.ALGORITHM),
    "alg RSA1_5": (header(alg="RSA1_5"), Reason.ALGORITHM),
    "alg PBES2 with a costly count": (
        header(alg="PBES2-HS512+A256KW", p2c=2**31, p2s="AAAAAAAAAAA"),
        Reason.ALGORITHM,
    ),
    "alg in other letters": (header(alg="DIR"), Reason.ALGORITHM),
    "alg a list": (header(alg=["dir"]), Reason.ALGORITHM),
    "no alg": (without("alg"), Reason.ALGORITHM),
    "enc A128CBC-HS256": (header(enc="A128CBC-HS256"), Reason.ALGORITHM),
    "enc A256GCM": (header(enc="A256GCM"), Reason.ALGORITHM),
    "no enc": (without("enc"), Reason.ALGORITHM),
    **{
        f"with {member}": (header(**{member: value}), Reason.ALGORITHM)
        for member, value in {
            "zip": "DEF",
            "crit": ["exp"],
            "jku": "https://example.com/keys",
            "jwk": {"kty": "oct", "k": "AA"},
            "x5u": "https://example.com/chain",
            "x5c": ["AA"],
            "x5t": "AA",
            "x5t#S256": "AA",
            "epk": {},
            "apu": "AA",
            "p2c": 2**31,
            "typ": "JWE",
            "cty": "JWT",
            "b64": False,
            "": "",
        }.items()
    },
    "alg twice": (sealed(HEADER[:-1] + b',"alg":"dir"}', VALUE), Reason.MALFORMED),
    "the name twice": (sealed(HEADER[:-1] + b',"custodia.key":"keys/x"}', VALUE), Reason.MALFORMED),
    "the kid twice, once in escapes": (sealed(HEADER[:-1] + b',"k\\u0069d":"default.2"}', VALUE), Reason.MALFORMED),
    "a header that ends in ours": (sealed(HEADER + HEADER, VALUE), Reason.MALFORMED),
    "a header in UTF-16": (sealed(HEADER.decode().encode("utf-16"), VALUE), Reason.MALFORMED),
    "a header with a byte order mark": (sealed(b"\xef\xbb\xbf" + HEADER, VALUE), Reason.MALFORMED),
    "a header that is a list": (sealed(b'[["alg","dir"],["enc","A256CBC-HS512"]]', VALUE), Reason.MALFORMED),
    "a header that is null": (sealed(b"null", VALUE), Reason.MALFORMED),
    "a header that is empty": (sealed(b"", VALUE), Reason.MALFORMED),
    "a header nested without end": (sealed(b"[" * 700, VALUE), Reason.MALFORMED),
    "a header over its limit": (header(kid="x" * 1024), Reason.MALFORMED),
    "a header cut off": (joined(protected=_P[:-4]), Reason.MALFORMED),
    "padding that is none": (sealed(HEADER, b"\x00" * 32, pad=False), Reason.MALFORMED),
    # What is no compact JWE at all.
    "nothing": (b"", Reason.MALFORMED),
    "dots": (b"....", Reason.MALFORMED),
    "a thousand dots": (b"." * 1000, Reason.MALFORMED),
    "the plaintext": (VALUE, Reason.MALFORMED),
    "four segments": (TOKEN.rpartition(b".")[0], Reason.MALFORMED),
    "six segments": (TOKEN + b".", Reason.MALFORMED),
    "a wrapped key": (joined(wrapped=b"AAAA"), Reason.MALFORMED),
    "a JWE in JSON": (
        json.dumps(
            {"protected": _P.decode(), "iv": _IV.decode(), "ciphertext": _C.decode(), "tag": _T.decode()}
        ).encode(),
        Reason.MALFORMED,
    ),
    "white space before": (b" " + TOKEN, Reason.MALFORMED),
    "a newline after": (TOKEN + b"\n", Reason.MALFORMED),
    "a newline inside": (joined(ciphertext=_C[:8] + b"\n" + _C[8:]), Reason.MALFORMED),
    "padding after the tag": (TOKEN + b"=", Reason.MALFORMED),
    "the other alphabet": (joined(iv=base64url.encode(b"\xff" * 16).replace(b"_", b"/")), Reason.MALFORMED),
    "bits left over in the tag": (joined(tag=_T[:-1] + bytes([_T[-1] + 1])), Reason.MALFORMED),
    "an IV too short": (joined(iv=base64url.encode(bytes(12))), Reason.MALFORMED),
    "an IV too long": (joined(iv=base64url.encode(bytes(17))), Reason.MALFORMED),
    "no IV": (joined(iv=b""), Reason.MALFORMED),
    "a tag too short": (joined(tag=base64url.encode(base64url.decode(_T)[:16])), Reason.MALFORMED),
    "a tag too long": (joined(tag=base64url.encode(bytes(64))), Reason.MALFORMED),
    "no tag": (joined(tag=b""), Reason.MALFORMED),
    "no ciphertext": (joined(ciphertext=b""), Reason.MALFORMED),
    "half a block": (joined(ciphertext=base64url.encode(_RAW[:-8])), Reason.MALFORMED),
    "sound, but larger than a value can be": (sealed(HEADER, bytes(wire.MAX_STORED)), Reason.MALFORMED),
}


@pytest.mark.parametrize(("token", "reason"), STORIES.values(), ids=STORIES)
def test_tampering(token: bytes, reason: Reason) -> None:
    """Each change is refused for its own reason, and outside all reasons are one error, which repeats nothing."""
    for act in (decrypt, verified):
        with pytest.raises(Undecipherable) as caught:
            act(RING, NAME, token)

        assert caught.value.reason == reason
        assert caught.value.name == NAME
        assert str(caught.value) == f"{NAME}: {reason}"
        assert caught.value.__context__ is None, "no error of a parser or a cipher hangs on it"
        assert wire.problem_body(caught.value, "r") == wire.problem_body(Undecipherable("", ""), "r")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 1000])
def test_what_is_verified_opens(size: int) -> None:
    """A value that was found to open is opened later, however many blocks it has, and shows nothing before."""
    value = bytes(range(256)) * 4
    closed = verified(RING, NAME, encrypt(KEY, NAME, value[:size]))

    assert closed.open() == closed.open() == value[:size]
    assert repr(closed) == "<Verified>"


def test_what_was_verified_opens_under_no_wiped_key() -> None:
    """A key that is dropped after a value was verified does not open it: the service is locked."""
    dropped = DataKey("default.1", KEY.reveal())
    closed = verified(Ring([dropped]).everywhere, NAME, encrypt(dropped, NAME, VALUE))
    dropped.wipe()

    with pytest.raises(Locked):
        closed.open()


def test_every_single_bit_counts() -> None:
    """Of all values one bit away from a sound one, none opens."""
    for position in range(len(TOKEN)):
        for bit in range(8):
            flipped = bytearray(TOKEN)
            flipped[position] ^= 1 << bit
            with pytest.raises(Undecipherable):
                pytest.fail(f"bit {bit} of byte {position}: {decrypt(RING, NAME, bytes(flipped))!r}")


def test_every_cut_counts() -> None:
    """No beginning and no end of a sound value opens."""
    for position in range(len(TOKEN)):
        for part in (TOKEN[:position], TOKEN[position + 1 :]):
            with pytest.raises(Undecipherable):
                pytest.fail(f"cut at {position}: {decrypt(RING, NAME, part)!r}")


@bounded
@given(st.one_of(st.binary(max_size=300), st.lists(st.binary(max_size=40), max_size=7).map(b".".join)))
def test_no_bytes_raise_anything_else(token: bytes) -> None:
    """Whatever the store holds, the answer is a value or Undecipherable."""
    with pytest.raises(Undecipherable):
        decrypt(RING, NAME, token)
    assert kid_of(token) is None


@bounded
@given(st.binary(max_size=200))
def test_no_header_raises_anything_else(header_bytes: bytes) -> None:
    """Whatever a header holds, even under a right tag, the answer is a value or Undecipherable."""
    with pytest.raises(Undecipherable):
        decrypt(RING, NAME, sealed(header_bytes, VALUE))


def test_another_pair_of_algorithms_is_refused() -> None:
    """RFC 7520 sec. 5.6, sound and under its own key, is refused for its algorithms (dir with A128GCM)."""
    vector = json.loads((VECTORS_FOLDER / "rfc7520_5_6.json").read_bytes())
    JWE().deserialize(vector["token"], JWK(**vector["key"]))  # jwcrypto opens it

    # Its IV and tag are GCM's, so the sizes give it away before the header does …
    with pytest.raises(Undecipherable) as caught:
        decrypt(RING, NAME, vector["token"].encode())
    assert caught.value.reason == Reason.MALFORMED
    # … and with sizes of ours, its header does.
    protected = vector["token"].split(".")[0].encode()
    with pytest.raises(Undecipherable) as caught:
        decrypt(RING, NAME, joined(protected=protected))
    assert caught.value.reason == Reason.ALGORITHM


def test_what_a_value_claims_to_be_under() -> None:
    """The kid can be read without the key, for an index; it proves nothing, and nonsense has none."""
    assert kid_of(TOKEN) == "default.1"
    assert kid_of(joined(tag=base64url.encode(bytes(32)))) == "default.1"
    assert kid_of(header(alg="none")) is None
    assert kid_of(b"") is None
