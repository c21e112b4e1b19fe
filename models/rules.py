"""Rules that fields share: each takes a value of the right type and says why it is wrong, or None."""

import base64
import re
from collections.abc import Iterator
from typing import Final

from strongroom.models.secret import Secret

_TIMESTAMP: Final = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12][0-9]|3[01])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{1,6}"
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of snake_case, kebab-case and camelCase alike
_SECRET_WORD: Final = re.compile(
    r".*(?:accesskey|apikey|credential|passphrase|passwd|passwort|password|privatekey|secret|token)s?|creds?|keys?"
    r"|(?!.*(?:by|com|over|sur|tres|under)pass$).*(?:pass|psk|pw|pwd)"
)
_POINTERS: Final = frozenset({"file", "id", "name", "path", "url"})  # a name that ends so says where, not what
_PASSWORD_IN_URL: Final = re.compile(r"://[^/?#\s]*:[^/?#\s]+@")
_PASSWORD_IN_COMMAND: Final = re.compile(r"\bsshpass\s+(?:-\w+\s+)*-p\s*\S")
_PEM: Final = ("-----BEGIN ", "LS0tLS1CRUdJTi")  # and the same in base64, as kubeconfig files carry it


def not_empty(text: str) -> str | None:
    """Refuse an empty text."""
    return None if text else "must not be empty"


def base64_text(secret: Secret) -> str | None:
    """Refuse a non-empty secret that is not base64 of the standard alphabet, padded, on one line (RFC 4648 sec. 4)."""
    text = secret.reveal()
    try:
        canonical = base64.b64encode(base64.b64decode(text)).decode() == text
    except ValueError:
        canonical = False
    return None if canonical else "must be base64 on one line"


def timestamp(text: str) -> str | None:
    """Refuse what is not a date and time as Python's ``isoformat`` writes it, with microseconds and without a zone."""
    found = _TIMESTAMP.fullmatch(text)
    if found is not None:
        year, month, day = (int(found[part]) for part in ("year", "month", "day"))
        leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if year > 0 and day <= _DAYS[month - 1] + leap:
            return None
    return "must be a date and time like 2016-11-05T16:04:59.000001"


def holds_no_secret(options: dict[str, object]) -> str | None:
    """Refuse options that hold what a plain record must not: a token, a password, a key, a certificate's text.

    A member is judged by the words of its name, at any depth, unless it says only where the thing is
    (``certificate_key_path``); a text also by what it holds: PEM, or a URL or a command with a password in it.
    """
    for name, value in _members(options):
        if value and means_secret(name):
            return "holds a token, password or key, which belongs in the secret record of the same name"
        if isinstance(value, str) and any(mark in value for mark in _PEM):
            return "holds key material, which belongs in the secret record of the same name"
        if isinstance(value, str) and _PASSWORD_IN_URL.search(value):
            return "holds a URL with a password, which belongs in the secret record of the same name"
        if isinstance(value, str) and _PASSWORD_IN_COMMAND.search(value):
            return "holds a command with a password, which belongs in the secret record of the same name"
    return None


def means_secret(name: str) -> bool:
    """Whether what goes by *name* is a secret, as far as a name tells: ``db_pass``, ``wifiPSK``, ``api-token``."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return (
        bool(words)
        and words[-1] not in _POINTERS
        and "public" not in words
        and any(_SECRET_WORD.fullmatch(word) for word in words)
    )


def _members(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield every member below *value* with its name; an item of a list goes by the name of the list."""
    if isinstance(value, dict):
        for member, child in value.items():
            yield member, child
            yield from _members(child, member)
    elif isinstance(value, list):
        for child in value:
            yield name, child
            yield from _members(child, name)
