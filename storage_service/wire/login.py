"""What client and service say to each other so that somebody logs in, and the text that is signed or decrypted.

    strongroom login
    nonce: <32 bytes, base64url>
    principal: user:ann
    service: https://secrets.example.net

Whoever logs in writes or reads the last two lines as it means them, and takes them from no answer: so a service that
hands on the challenge of another one gets nothing that is worth anything there.
"""

import os
from typing import Final, Literal
from urllib.parse import quote, urlsplit

import msgspec

from strongroom.storage_service.wire import AUTH_PATH

CHALLENGE_PATH: Final = AUTH_PATH + "/challenge"  # POST, for everybody
LOGIN_PATH: Final = AUTH_PATH + "/login"  # POST, for everybody
WHOAMI_PATH: Final = AUTH_PATH + "/whoami"  # GET: what /whoami tells, where it can be asked through the proxy
TOKEN_PATH: Final = AUTH_PATH + "/token"  # DELETE: the one that is shown; /auth/token/<jti>: another
MAX_BODY: Final = 32 * 1024  # bytes
MAX_ADDRESS: Final = 512  # characters of the address at which a service is spoken to
MAX_PRINCIPAL: Final = 128  # characters
MAX_CHALLENGE: Final = 4096  # characters of a sealed challenge
NONCE_CHARACTERS: Final = 43  # 32 bytes in base64url
LIFETIMES: Final[dict[str, int]] = {"sign": 60, "decrypt": 15}  # seconds: a hardware key waits for its user's finger

_FIRST_LINE: Final = "strongroom login"
_PORTS: Final = {"http": 80, "https": 443}

How = Literal["sign", "decrypt"]


class AskedChallenge(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of that which asks for a challenge: who will log in, at which address it speaks to the service, and how.

    *key* is the public key to encrypt to, as a line of ``authorized_keys``: whether it is anybody's is told by nothing.
    """

    principal: str
    service: str
    how: How = "sign"
    key: str = ""


class Challenge(msgspec.Struct, kw_only=True):
    """The answer: *challenge* is sealed and goes back as it is; *nonce* is to be signed, or *encrypted* decrypted."""

    how: How
    challenge: str
    expires: str  # RFC 3339, UTC
    nonce: str = ""
    encrypted: str = ""

    def __repr__(self) -> str:
        return f"<Challenge to {self.how}>"


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of a login: the sealed challenge, and a signature in armour or the nonce that was decrypted.

    *lifetime* is how long the token is to live (``10m``); it is clipped to what the service allows.
    """

    challenge: str
    answer: str
    lifetime: str = ""

    def __repr__(self) -> str:
        return "<Answer>"


class Token(msgspec.Struct, kw_only=True):
    """Answer of a login: the *token* goes into ``Authorization: Bearer``, until it *expires*."""

    token: str
    principal: str
    expires: str  # RFC 3339, UTC

    def __repr__(self) -> str:
        return f"<Token for {self.principal}>"


def socket_address(path: str | os.PathLike[str]) -> str:
    """Return the address of a service that is spoken to over the unix socket at *path*: one spelling for a file."""
    return "unix:" + quote(os.fsencode(os.path.realpath(path)), safe="/:@+,=~")


def url_address(url: str) -> str:
    """Return the address of a service that is spoken to at *url*: one spelling for a host, port and path.

    Raises:
        ValueError: it is not a URL.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode("ascii")
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def message(nonce: str, principal: str, service: str) -> bytes:
    """Return the text that ties *nonce* to who logs in and where.

    Raises:
        ValueError: one of them cannot stand in a line of its own.
    """
    if len(nonce) != NONCE_CHARACTERS or not _fits(nonce, NONCE_CHARACTERS):
        raise ValueError("a nonce is 32 bytes in base64url")
    if not _fits(principal, MAX_PRINCIPAL):
        raise ValueError(f"a principal is 1 to {MAX_PRINCIPAL} printable characters of ASCII without blanks")
    if not _fits(service, MAX_ADDRESS):
        raise ValueError(f"a service's address is 1 to {MAX_ADDRESS} printable characters of ASCII without blanks")
    return f"{_FIRST_LINE}\nnonce: {nonce}\nprincipal: {principal}\nservice: {service}\n".encode()


def _fits(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isascii() and text.isprintable() and " " not in text
