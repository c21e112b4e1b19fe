"""The URLs that stores are named by, split as RFC 3986 appendix B does.

``urllib.parse.urlsplit`` is not for them: an etcd URL may list several hosts, and since the fix of CVE-2024-11168 it
refuses a list with an IPv6 address in it, on some Python 3.11 and on all that are newer.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote

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


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))
