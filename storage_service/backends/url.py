"""The URLs that stores are named by, split as RFC 3986 appendix B does.

``urllib.parse.urlsplit`` is not for them: an etcd URL may list several hosts, and since the fix of CVE-2024-11168 it
refuses a list with an IPv6 address in it, on some Python 3.11 and on all that are newer.
"""

import re
from typing import Final
from urllib.parse import SplitResult

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
