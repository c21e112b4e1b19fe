"""The grammar of names: one string that is storage key, access resource, bound data and audit subject at once.

    secrets/hosts/10.0.0.7      a secret: container "hosts", key "10.0.0.7"
    secrets/hosts/              a container, with its trailing slash
    hosts/10.0.0.7              a plain record

A name is at most 512 bytes of segments of ``[A-Za-z0-9._@:+-]`` joined by ``/``. Dot segments and empty segments
do not exist, so that no two spellings can mean one record and none can climb out of its container.
"""

import re
from typing import Final

from strongroom.models.errors import InvalidName

MAX_NAME: Final = 512  # bytes
SECRETS: Final = "secrets/"  # where every secret lives, and nothing else
SYSTEM: Final = "system/"  # the service's own records: wrapped keys, access, journals

_NAME = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._@:+-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._@:+-]+)*/?", re.ASCII)


def check(name: str) -> str:
    """Return *name* if the grammar allows it.

    Raises:
        InvalidName: it does not; the message names the rule and never the name.
    """
    if len(name) > MAX_NAME:
        raise InvalidName(f"a name is at most {MAX_NAME} bytes")
    if _NAME.fullmatch(name) is None:
        raise InvalidName("a name is segments of [A-Za-z0-9._@:+-], not '.' or '..', joined by single slashes")
    return name


def is_container(name: str) -> bool:
    """Whether *name* is a folder of names: containers carry a trailing slash."""
    return name.endswith("/")


def container_of(name: str) -> str:
    """Return the container that *name* lies in, with its trailing slash ("" at the top).

    ``secrets/hosts/10.0.0.7`` and ``secrets/hosts/sub/`` both lie in ``secrets/hosts/``.
    """
    return name[: name.rstrip("/").rfind("/") + 1]
