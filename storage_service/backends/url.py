"""The URLs that stores are named by, split as RFC 3986 appendix B does, and what of them is not to be seen.

``urllib.parse.urlsplit`` is not for them: an etcd URL may list several hosts, and since the fix of CVE-2024-11168 it
refuses a list with an IPv6 address in it, on some Python 3.11 and on all that are newer.

A password ends at the last ``@`` of all, whatever is in it. No store has an address with one further on (`check_at`),
so what is hidden from people and left out of records is what a store would take for a password, and never less.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, unquote_plus

from strongroom.models.secret import REDACTED
from strongroom.storage_service.errors import ConfigurationError

DEFAULT_PORT: Final = 2379  # of a member of etcd
DEFAULT_PREFIX: Final = "strongroom"  # of what is ours in an etcd
ETCD_OPTIONS: Final = frozenset({"cacert", "cert", "key", "timeout", "password", "password_file"})

_PARTS: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?")
_BARE: Final = re.compile(r"(?!sqlite:)[^/:@\s]*:.*@", re.DOTALL)  # user, password and host of a URL without its scheme
_SECRETS: Final = ("key", "passphrase", "passwd", "password", "secret", "token")  # what the name of a secret ends in
_FILES: Final = frozenset({"machine_key", "root_key", "tls_key"})  # of those, what names a file


def split(url: str) -> SplitResult:
    """Return the parts of *url*; those that it does not have are empty.

    Raises:
        ValueError: it holds control characters. The text never repeats it.
    """
    match = _PARTS.fullmatch(url)
    if match is None or not url.isprintable():
        raise ValueError("there are no control characters in a URL")
    scheme, netloc, path, query, fragment = match.groups(default="")
    return SplitResult(scheme.lower(), netloc, path, query, fragment)


def of_file(scheme: str, path: Path) -> str:
    """Return the URL of the file at *path*: what has a meaning in a URL, and what cannot be printed, is encoded."""
    text = "".join(each if each.isprintable() and each not in "%?#" else _encoded(each) for each in str(path))
    return f"{scheme}:{text}"


def file_of(path: str) -> Path:
    """Return the file that the *path* of such a URL names."""
    return Path(unquote(path, errors="surrogateescape"))


def as_said(url: str) -> str:
    """Return the URL of a store as people write it in settings: the path of a file as it is."""
    parts = split(url)
    return (
        f"sqlite:{file_of(parts.path)}" + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "sqlite"
        else url
    )


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name one store, whatever else they say: a file is one by any path that leads to it.

    An etcd is the same where one member at least is in both lists, so that a cluster may change its members one after
    another. By another name for the same machine it is another.
    """
    ours, theirs = split(one), split(other)
    if ours.scheme != theirs.scheme:
        return False
    if ours.scheme == "etcd":
        return prefix(ours.path) == prefix(theirs.path) and bool(_members(ours) & _members(theirs))
    files = file_of(ours.path), file_of(theirs.path)
    try:
        return files[0].samefile(files[1])
    except OSError:  # one is not there
        return os.path.realpath(files[0]) == os.path.realpath(files[1])


def check_at(parts: SplitResult) -> None:
    """Refuse a URL with an ``@`` after its hosts: it would be unclear where a password in it ends.

    Raises:
        ConfigurationError: it has one. The text never repeats it.
    """
    if parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigurationError(
            "in a store's URL an @ stands before the hosts alone: write any other one as %40, and in a password"
            " / as %2F, ? as %3F and # as %23"
        )


def prefix(path: str) -> str:
    """Return the prefix that the *path* of an etcd's URL names, without slashes around it."""
    return path.strip("/").replace("%40", "@") or DEFAULT_PREFIX


def is_secret(name: str) -> bool:
    """Whether what has that *name* is a secret, and no file with one."""
    plain = name.casefold().replace("-", "_")
    return plain.endswith(_SECRETS) and plain not in _FILES


def without_password(url: str) -> str:
    """Return *url* with no password in it, neither the user's nor as an option: for records."""
    return _told(url, "")


def masked(text: str) -> str:
    """Return *text* with each password of a URL in it replaced: for people."""
    return _told(text, REDACTED)


def redacted(value: object) -> object:
    """Return what settings say, a text or lists and tables of them, with each password and secret option replaced."""
    match value:
        case str():
            return masked(value)
        case list():
            return [redacted(item) for item in value]
        case tuple():
            return tuple(redacted(item) for item in value)
        case dict():
            return {name: REDACTED if _hides(str(name)) and item else redacted(item) for name, item in value.items()}
        case _:
            return value


def _told(text: str, stand_in: str) -> str:
    """Return *text* with *stand_in* for each password; where that is empty, nothing tells that there was one."""
    head, slashes, rest = text.partition("://")
    if not slashes or ":" in head:
        head, slashes, rest = "", "", text
    who, at, place = rest.rpartition("@") if slashes or _BARE.match(text) else ("", "", text)
    if "?" in who or "#" in who:  # a password with one in it, or an option with an @: nobody knows where it ends
        return f"{head}{slashes}{stand_in}"
    user, colon, _ = who.partition(":")
    said = f"{user}:{stand_in}" if colon and stand_in else user
    place, mark, query = place.partition("?")
    options = list(_told_options(query, stand_in))
    return f"{head}{slashes}{said}{at}{place}" + (mark + "&".join(options) if options else "")


def _told_options(query: str, stand_in: str) -> Iterator[str]:
    secret = False
    for option in query.split("&"):
        name, equals, _ = option.partition("=")
        if _hides(unquote_plus(name)):
            secret = True
            if stand_in:
                yield f"{name}={stand_in}"
        elif not secret or (equals and name in ETCD_OPTIONS):
            secret = False
            yield option
        # Else it belongs to the secret before it, in which somebody left an & as it was.


def _hides(option: str) -> bool:
    """Whether an option is a secret; a store's ``key`` names a file."""
    return is_secret(option) and option != "key"


def _members(parts: SplitResult) -> set[str]:
    hosts = parts.netloc.rpartition("@")[2].lower().split(",")
    return {host if re.search(r":[0-9]+$", host) else f"{host}:{DEFAULT_PORT}" for host in hosts}


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))
