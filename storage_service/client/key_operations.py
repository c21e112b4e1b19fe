"""The operations on keys, in the manner of ``operations``; they are offered on the unix socket alone.

What was made for people to keep comes as `Secret`, and what they typed may be given as one.
"""

import msgspec

from models.secret import Secret
from storage_service import wire
from storage_service.client.dialogue import Call, Effect, Operation
from storage_service.client.operations import decode
from storage_service.keyring_wire import KEYRING_PATH, KeyringStatus, Typed


def keyring() -> Operation[KeyringStatus]:
    """Return all that can be told of the keyring: its state, who can open it, what is under way."""
    return decode((yield Call("GET", KEYRING_PATH, Effect.READ)), KeyringStatus)


def unlock(text: str | Secret) -> Operation[None]:
    """Unlock the service, in all of its workers.

    Args:
        text: one unlock key, or enough shares, a line each.

    Raises:
        Invalid: it cannot be right; says which line.
        WrongKey: it opens nothing here.
        TooManyAttempts: wrong keys were given; *wait* says how many seconds to wait.
        Exists: the service is unlocked.
    """
    typed = text.reveal() if isinstance(text, Secret) else text
    yield _post("/unlock", Typed(text=typed))


def lock() -> Operation[None]:
    """Lock the service, in all of its workers: no secret is read or written until somebody unlocks it."""
    yield _post("/lock")


def _post(path: str, said: msgspec.Struct | None = None, effect: Effect = Effect.WRITE) -> Call:
    if said is None:
        return Call("POST", KEYRING_PATH + path, effect)
    return Call("POST", KEYRING_PATH + path, effect, msgspec.json.encode(said), {"Content-Type": wire.JSON})
