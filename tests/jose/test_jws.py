"""A compact JWS under HS256: held to RFC 7515 and jwcrypto, and to nothing that asks for more."""

import hmac
import json

import pytest
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.jws import MAX_TOKEN, WrongSignature, payload_of, signed

# RFC 7515, appendix A.1
RFC_KEY = base64url.decode(b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
RFC_TOKEN = (
    b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
SECRET = bytes(range(64))
OTHER = bytes(64)
PAYLOAD = b'{"sub":"user:ann"}'


def forged(header: object, payload: bytes = PAYLOAD, secret: bytes = SECRET, digest: str = "sha256") -> bytes:
    """Return a token with that header, whose signature is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = base64url.encode(text) + b"." + base64url.encode(payload)
    return head + b"." + base64url.encode(hmac.digest(secret, head, digest))


def test_the_token_of_the_rfc_is_read() -> None:
    """The example of RFC 7515 is right under its key, white space within its JSON and all."""
    assert json.loads(payload_of((RFC_KEY,), RFC_TOKEN)) == {
        "iss": "joe",
        "exp": 1300819380,
        "http://example.com/is_root": True,
    }


def test_jwcrypto_reads_what_is_signed_and_is_read() -> None:
    """Another implementation accepts our tokens, and ours its."""
    key = JWK(kty="oct", k=base64url.encode(SECRET).decode())
    ours = JWS()
    ours.deserialize(signed(SECRET, PAYLOAD).decode(), key)
    theirs = JWS(PAYLOAD)
    theirs.add_signature(key, "HS256", json.dumps({"alg": "HS256"}))

    assert ours.payload == PAYLOAD
    assert payload_of((SECRET,), theirs.serialize(compact=True).encode()) == PAYLOAD


def test_every_secret_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many MACs are made whichever secret signed it, and where none did."""
    made: list[bytes] = []
    digest = hmac.digest
    tokens = [signed(SECRET, PAYLOAD), signed(OTHER, PAYLOAD), signed(b"3" * 64, PAYLOAD)]
    monkeypatch.setattr(hmac, "digest", lambda key, *rest: made.append(key) or digest(key, *rest))

    counts = []
    for token in tokens:
        made.clear()
        try:
            payload_of((SECRET, OTHER), token)
        except WrongSignature:
            counts.append(("none", len(made)))
        else:
            counts.append(("one", len(made)))

    assert counts == [("one", 2), ("one", 2), ("none", 2)]


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "hs256"},
        {"alg": "HS384"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": "ES256"},
        {"typ": "JWT"},
        {"alg": ["HS256"]},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "HS256", "b64": True},
        {"alg": "HS256", "zip": "DEF"},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}},
        {"alg": "HS256", "jku": "https://example.net/keys"},
        {"alg": "HS256", "x5u": "https://example.net/chain"},
        {"alg": "HS256", "typ": "JWE"},
        {"alg": "HS256", "kid": 1},
        [],
        "HS256",
        None,
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","alg":"HS256"}',
        b'{"alg":"HS256"',
        b'\xff{"alg":"HS256"}',
        b"",
    ],
    ids=repr,
)
def test_a_header_that_asks_for_more_is_refused(header: object) -> None:
    """No other algorithm, no extension and nothing that names a key is accepted, though the MAC is right."""
    with pytest.raises(ValueError, match=r"^[^{}]+$"):
        payload_of((SECRET,), forged(header))


def test_a_public_key_is_no_secret() -> None:
    """A token that says RS256 and was signed with the text of a public key as a secret is refused for what it says."""
    public = JWK.generate(kty="RSA", size=2048).export_to_pem()

    with pytest.raises(ValueError, match="another algorithm"):
        payload_of((public,), forged({"alg": "RS256"}, secret=public))


def test_a_wrong_signature_is_told_from_a_malformed_token() -> None:
    """Every changed bit of payload or signature, and a signature of another hash or cut short, is a wrong one."""
    token = signed(SECRET, PAYLOAD)
    head, _, _ = token.rpartition(b".")
    wrong = [
        forged({"alg": "HS256"}, digest="sha512"),
        forged({"alg": "HS256"}, secret=OTHER),
        head + b".",
        head + b"." + base64url.encode(hmac.digest(SECRET, head, "sha256")[:16]),
        head + b"." + base64url.encode(hmac.digest(SECRET, head, "sha256") + b"\0"),
        token.replace(base64url.encode(PAYLOAD), base64url.encode(PAYLOAD.replace(b"ann", b"bob"))),
    ]
    for each in wrong:
        with pytest.raises(WrongSignature):
            payload_of((SECRET,), each)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token + b"=",
        lambda token: token + b"\n",
        lambda token: b" " + token,
        lambda token: token.replace(b".", b". ", 1),
        lambda token: token.replace(b".", b"=.", 1),
        lambda token: token + b".",
        lambda token: token + b".e30",
        lambda token: token.rpartition(b".")[0],
        lambda token: token[:-1] + bytes([token[-1] + 1]),  # bits to spare at the end
        lambda token: b"..",
        lambda token: b"",
        lambda token: token + b"A" * MAX_TOKEN,
    ],
)
def test_a_token_has_one_spelling(change) -> None:
    """Padding, blanks, more or fewer parts and spare bits are refused, and no message repeats the token."""
    token = signed(SECRET, PAYLOAD)

    with pytest.raises(ValueError, match=r"^[A-Za-z0-9 ,'-]+$") as caught:
        payload_of((SECRET,), change(token))

    assert not isinstance(caught.value, WrongSignature)
