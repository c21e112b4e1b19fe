"""A process of this machine, by the user that the kernel says it runs as."""

from typing import Final

from strongroom.models.access import InvalidAccess

MAX_UID: Final = 2**32 - 2  # the last number is nobody's


def canonical(given: str) -> str:
    """Return the uid *given*.

    Raises:
        InvalidAccess: it is not one.
    """
    if not (given.isascii() and given.isdigit()) or len(given) > 10 or int(given) > MAX_UID:
        raise InvalidAccess(f"a uid is a whole number from 0 to {MAX_UID}", "data")
    return str(int(given))


def identity(data: str) -> str:
    """Return the uid: a process is one principal."""
    return data


def shown(data: str) -> dict[str, str]:
    """Return the uid."""
    return {"uid": data}
