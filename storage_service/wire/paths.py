"""How a path is read, on both faces: one spelling for one name (RFC 3986 sec. 6.2.2).

The percent-encoding of a character that a name may hold is that character, but for the dot and the slash, which would
let two readers see two paths. So the path that is decided about is the path that everyone behind sees.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.storage_service.errors import Invalid

_QUERY: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")  # RFC 3986 sec. 3.4
_TWOFOLD: Final = re.compile(rb"%2[ef]|%5c|%00", re.IGNORECASE)  # a dot, a slash, a backslash, a null


def read_path(raw: bytes, prefix: str = "") -> str:
    """Return the path that *raw* spells; below *prefix*, an API's root, it is a name of ``strongroom.models.names``.

    Raises:
        Invalid: it can be read in two ways, or holds what no name may.
    """
    if b"%" in raw:
        if _TWOFOLD.search(raw):
            raise Invalid("the path encodes a slash, a dot or a control character")
        raw = unquote_to_bytes(raw)
    try:
        path = raw.decode("ascii")
        if path[:1] != "/":
            raise Invalid("the request target is not a path")
        if path not in {"/", prefix}:
            names.check(path[len(prefix) if prefix and path.startswith(prefix) else 1 :])
    except UnicodeDecodeError:
        raise Invalid("a path is ASCII") from None
    except InvalidName as exc:
        raise Invalid(f"the path is not spelled plainly: {exc}") from None
    return path


def check_query(query: bytes) -> None:
    """Refuse a query that holds what no query may.

    Raises:
        Invalid: it does.
    """
    if query and _QUERY.fullmatch(query) is None:
        raise Invalid("the query is not spelled as RFC 3986 says")
