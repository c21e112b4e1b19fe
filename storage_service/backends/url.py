"""The URLs that stores are named by, split as RFC 3986 appendix B does.

``urllib.parse.urlsplit`` is not for them: an etcd URL may list several hosts, and since the fix of CVE-2024-11168 it
refuses a list with an IPv6 address in it, on some Python 3.11 and on all that are newer.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote

DEFAULT_PORT: Final = 2379  # of a member of etcd
DEFAULT_PREFIX: Final = "strongroom"  # of what is ours in an etcd

_PARTS: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?")


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
        return _prefix(ours) == _prefix(theirs) and bool(_members(ours) & _members(theirs))
    files = file_of(ours.path), file_of(theirs.path)
    try:
        return files[0].samefile(files[1])
    except OSError:  # one is not there
        return os.path.realpath(files[0]) == os.path.realpath(files[1])


def without_password(url: str) -> str:
    """Return *url* with no password in it, neither the user's nor as an option."""
    parts = split(url)
    user, at, hosts = parts.netloc.rpartition("@")
    options = [option for option in parts.query.split("&") if option and not option.startswith("password=")]
    place = f"//{user.partition(':')[0]}{at}{hosts}" if parts.netloc else ""
    return f"{parts.scheme}:{place}{parts.path}" + (f"?{'&'.join(options)}" if options else "")


def _members(parts: SplitResult) -> set[str]:
    hosts = parts.netloc.rpartition("@")[2].lower().split(",")
    return {host if re.search(r":[0-9]+$", host) else f"{host}:{DEFAULT_PORT}" for host in hosts}


def _prefix(parts: SplitResult) -> str:
    return parts.path.strip("/") or DEFAULT_PREFIX


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))
