"""Unlock keys and shares as people type them, measured before they are sent anywhere."""

from strongroom.storage_service.keyring.opening import unlock_keys
from strongroom.storage_service.keyring.opening.unlock_keys import Mistyped, TooFew

__all__ = ["Mistyped", "TooFew", "check", "kids"]


def check(text: str) -> None:
    """Accept what was typed, a line each, if it can be right, and is enough.

    Raises:
        TooFew: shares are missing.
        Mistyped: a line cannot be right; says which.
    """
    unlock_keys.parse(text)


def kids(text: str) -> set[str]:
    """Return the ids of the keys that were typed, of shares that of the key that they make together.

    Raises:
        TooFew, Mistyped: as `check`.
    """
    return {key.kid for key in unlock_keys.parse(text).keys}
