"""The operations on keys, in the manner of ``operations``; they are offered on the unix socket alone.

What was made for people to keep comes as `Secret`, and what they typed may be given as one. Errors that any of them can
raise: Locked or Uninitialized without the root key, Overtaken when somebody else changed the keyring meanwhile, and
Unusable when what the store or the disk holds cannot be used.
"""

from typing import NamedTuple

import msgspec

from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.operations import decode, segment
from strongroom.storage_service.client.retries import Call, Effect, Operation
from strongroom.storage_service.wire import keys as keyring_wire
from strongroom.storage_service.wire.keys import (
    KEYRING_PATH,
    Backup,
    KeyringStatus,
    Keyset,
    KeyUsage,
    Mode,
    Reencrypted,
    Scan,
)


class NewKeys(NamedTuple):
    """Keys that were made for people to keep: nobody can show them again. Mode file or machine: there are none."""

    root: str  # kid of the root key that they open
    mode: Mode
    keys: list[Secret]
    needed: int | None  # how many of them open it together; None: any one does


def keyring() -> Operation[KeyringStatus]:
    """Return all that can be told of the keyring: its state, who can open it, what is under way."""
    return decode((yield Call("GET", KEYRING_PATH, Effect.READ)), KeyringStatus)


# The root key


def init_keyring(
    mode: Mode,
    *,
    total: int = keyring_wire.DEFAULT_TOTAL,
    needed: int | None = None,
    keys: int = 1,
    again: bool = False,
) -> Operation[NewKeys]:
    """Make the first keyring of the store, and return what opens it. The service is locked then, unless a file does.

    Args:
        mode: ``"file"``, ``"unlock"`` (keys, any one of which opens), ``"shares"`` or ``"machine"``.
        total: how many unlock keys, or shares.
        needed: how many of the shares open; None: more than half of them.
        keys: how many keys a generation of a keyset has.
        again: in the place of a keyring whose keys were lost before anything was encrypted under it.

    Raises:
        Exists: there is a keyring.
        Invalid: nobody, or not so many, can open it.
    """
    wanted = keyring_wire.NewKeyring(mode=mode, total=total, needed=needed, keys=keys, again=again)
    return _new_keys(decode((yield _post("/init", wanted)), keyring_wire.KeysMade))


def take_back_keyring(root: str) -> Operation[None]:
    """Undo `init_keyring`, whose keys could not be shown: the store has no keyring then.

    Args:
        root: the kid that `init_keyring` returned.

    Raises:
        NotFound: that root key is not in use.
        InUse: something is encrypted under it.
    """
    yield _delete(f"/init/{segment(root)}")


def unlock(text: str | Secret | None = None) -> Operation[None]:
    """Unlock the service, in all of its workers.

    Args:
        text: one unlock key, or enough shares, a line each; None: by the key file or this machine's key.

    Raises:
        Invalid: it cannot be right; says which line.
        WrongKey: it opens nothing here.
        TooManyAttempts: wrong keys were given; *wait* says how many seconds to wait.
        Exists: the service is unlocked.
    """
    yield _post("/unlock", keyring_wire.Typed(text=_revealed(text)))


def lock(*, forget: bool = False) -> Operation[None]:
    """Lock the service, in all of its workers: no secret is read or written until somebody unlocks it.

    Args:
        forget: let other workers take the place of those who had the keys, so that no copy is left in their memory.
            They do not know the holders of API keys until the service is unlocked, but for the service's own.
    """
    yield _post("/forget" if forget else "/lock")


def prepare_root(
    mode: Mode, *, total: int = keyring_wire.DEFAULT_TOTAL, needed: int | None = None, keep_file: bool = False
) -> Operation[NewKeys]:
    """Make the next root key, and return what is to open it; it opens nothing until `confirm_root`.

    Args:
        mode: as `init_keyring`.
        total: as `init_keyring`.
        needed: as `init_keyring`.
        keep_file: let the root key file that is there open it, instead of a new one.

    Raises:
        Invalid: nobody, or not so many, can open it; or a key file cannot be made.
        InUse: a machine would be left without it.
    """
    wanted = keyring_wire.NewRoot(mode=mode, total=total, needed=needed, keep_file=keep_file)
    return _new_keys(decode((yield _post("/root", wanted)), keyring_wire.KeysMade))


def confirm_root(root: str, text: str | Secret | None = None) -> Operation[None]:
    """Put the root key that was prepared in the place of the one in use; what opened that opens nothing then.

    It may be asked again after an answer that did not come.

    Args:
        root: its kid.
        text: all of the new unlock keys, or enough shares, a line each; None: the new file is read back.

    Raises:
        Invalid: they do not open it, or not all of them were given; nothing was done.
        Overtaken: another root key was prepared.
    """
    yield _post(f"/root/{segment(root)}", keyring_wire.Typed(text=_revealed(text)), Effect.GUARDED)


def abandon_root(root: str) -> Operation[None]:
    """Drop the root key that was prepared.

    Raises:
        NotFound: no such one is prepared.
        InUse: it is in use.
    """
    yield _delete(f"/root/{segment(root)}")


# Keysets


def list_keysets() -> Operation[list[Keyset]]:
    """Return all keysets and their generations."""
    return decode((yield Call("GET", f"{KEYRING_PATH}/keysets", Effect.READ)), list[Keyset])


def create_keyset(name: str, *, keys: int = 1) -> Operation[None]:
    """Make a keyset, with *keys* keys a generation, of which each write takes one at random.

    Raises:
        Exists: there is one of that name.
        Invalid: that is no name, or one kept for the service.
    """
    yield _post("/keysets", keyring_wire.NewKeyset(name=name, keys=keys))


def remove_keyset(name: str) -> Operation[None]:
    """Destroy a keyset.

    Raises:
        NotFound: there is none of that name.
        InUse: something needs it; *holders* says what.
    """
    yield _delete(f"/keysets/{segment(name)}")


def rotate_keyset(name: str, *, keys: int | None = None) -> Operation[None]:
    """Give a keyset a new generation, which all that is written from now on is under; what is there stays as it is.

    Raises:
        NotFound: there is none of that name.
        InUse: a reversal of it is under way, or too many old generations are not retired yet.
    """
    yield _post(f"/keysets/{segment(name)}/rotate", keyring_wire.Rotation(keys=keys))


def revert_keyset(name: str) -> Operation[None]:
    """Let the generation before the active one be active again; `reencrypt` brings back what is under newer ones.

    Raises:
        NotFound: there is none of that name.
        Invalid: it has no older generation.
    """
    yield _post(f"/keysets/{segment(name)}/revert")


def assign_keyset(container: str, name: str) -> Operation[None]:
    """Let the secrets in *container* (``"hosts"``), and in all within, be written under keyset *name* from now on.

    Raises:
        NotFound: there is none of that name.
    """
    place = names.check(f"{names.SECRETS}{container.removesuffix('/')}/")
    yield _post("/assign", keyring_wire.Assigning(container=place, keyset=name))


def reencrypt(
    keyset: str | None = None,
    after: str | None = None,
    *,
    limit: int = keyring_wire.DEFAULT_LIMIT,
    resume: bool = False,
    pace: float = 1.0,
) -> Operation[Reencrypted]:
    """Do one step of re-encryption; the answer's *after* goes into the next, until it is None.

    Args:
        keyset: what is to be under its active generation; None: of all keysets.
        after: where the step before ended.
        limit: records to look at, at most.
        resume: go on past records that do not open, also while the keyset is being reverted.
        pace: which part of a worker's time it may take, from 0.01 to 1; below 1, what others do meanwhile goes on
            nearly as if nothing were.

    Raises:
        NotFound: there is no such keyset.
        Halted: it is being reverted, and that cannot be done; *holders* says what is left.
    """
    wanted = keyring_wire.Reencryption(keyset=keyset, after=after, limit=limit, resume=resume, pace=pace)
    # What was moved is not moved again: a step may be repeated however the one before ended.
    return decode((yield _post("/reencrypt", wanted, Effect.READ)), Reencrypted)


def resume_keyset(name: str, *, leave_unreadable: bool = False) -> Operation[None]:
    """Let secrets be written again, when nothing is left of a reversal that failed.

    Args:
        name: the keyset.
        leave_unreadable: also when something is left.

    Raises:
        Halted: something is left; *holders* says what.
    """
    yield _post("/resume", keyring_wire.Resumption(keyset=name, leave_unreadable=leave_unreadable))


def retire_generation(generation: str) -> Operation[None]:
    """Destroy a generation of a keyset (``"default.1"``): what was encrypted under it can never be read again.

    Raises:
        NotFound: there is no such generation.
        InUse: it is active, or something is under it, or a backup needs it; *holders* says what.
    """
    yield _post("/retire", keyring_wire.Retirement(generation=generation))


# Key usage, backups and export


def key_usage() -> Operation[KeyUsage]:
    """Return how many records are under each generation."""
    return decode((yield Call("GET", f"{KEYRING_PATH}/usage", Effect.READ)), KeyUsage)


def scan_key_usage(*, repair: bool = False) -> Operation[Scan]:
    """Look at every record, and hold the index against what they are under; with *repair* put it right."""
    # Both may be repeated: what was put right is right.
    return decode((yield _post("/usage/scan", keyring_wire.Scanning(repair=repair), Effect.READ)), Scan)


def list_backups() -> Operation[list[Backup]]:
    """Return the registered backups, and the generations that each needs."""
    return decode((yield Call("GET", f"{KEYRING_PATH}/backups", Effect.READ)), list[Backup])


def register_backup(label: str) -> Operation[None]:
    """Keep every generation of today for as long as a copy of the store, which is called *label*, may be wanted.

    Raises:
        Exists: one of that label is registered.
    """
    yield _post("/backups", keyring_wire.NewBackup(label=label))


def forget_backup(label: str) -> Operation[None]:
    """Let go of what the backup *label* needs.

    Raises:
        NotFound: none of that label is registered.
    """
    yield _delete(f"/backups/{segment(label)}")


def export_keyring() -> Operation[bytes]:
    """Return the keyring as one file: with it, a copy of the store and one key, every secret is there again."""
    return (yield _post("/export", effect=Effect.READ)).body


def _post(path: str, said: msgspec.Struct | None = None, effect: Effect = Effect.WRITE) -> Call:
    if said is None:
        return Call("POST", KEYRING_PATH + path, effect)
    return Call("POST", KEYRING_PATH + path, effect, msgspec.json.encode(said), {"Content-Type": wire.JSON})


def _delete(path: str) -> Call:
    return Call("DELETE", KEYRING_PATH + path, Effect.WRITE)


def _revealed(text: str | Secret | None) -> str | None:
    return text.reveal() if isinstance(text, Secret) else text


def _new_keys(made: keyring_wire.KeysMade) -> NewKeys:
    return NewKeys(made.root, made.mode, [Secret(key) for key in made.keys], made.needed)
