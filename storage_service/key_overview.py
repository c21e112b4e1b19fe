"""What can be told of the keyring without telling a key: its state, who can open it, and what is under way with it."""

from collections.abc import AsyncIterator
from typing import Final

from storage_service.backends.base import Backend
from storage_service.errors import KeyringDamaged
from storage_service.keyring import census, vault, wraps
from storage_service.keyring.document import PROTECTED, Document
from storage_service.keyring.document import Keyset as KeysetOf
from storage_service.keyring.keeper import Keeper
from storage_service.keyring.page import State as Page
from storage_service.keyring.rootkey import is_root_kid
from storage_service.keyring_wire import Backup, Halt, KeyringStatus, Keyset, Pending, Place, Recipient, State, Version

MAX_NAMED: Final = 20  # records that one answer names

_STATES: Final[dict[Page, State]] = {
    Page.FRESH: "locked",
    Page.UNINITIALIZED: "uninitialized",
    Page.LOCKED: "locked",
    Page.UNLOCKED: "unlocked",
    Page.HALTED: "fatal",
}


def state_of(keeper: Keeper) -> State:
    """Return the state as this worker knows it, at no cost; what is under way is not looked for."""
    ring = keeper.current
    return "fatal" if ring is not None and ring.halted else _STATES[keeper.state]


async def read(store: Backend, keeper: Keeper) -> tuple[Document, str]:
    """Return the keyring document, and the kid of the root key that it is under.

    Raises:
        Locked, Uninitialized: there is no key to open it with.
        StartupError: it does not open.
        Unavailable: the store does not answer.
    """
    async with keeper.root() as root:
        sealed = await vault.read(store)
        if sealed is None:
            raise KeyringDamaged("the keyring is gone from the store; restore it from a backup")
        return vault.open_document(sealed, root), root.kid


async def tell(store: Backend, keeper: Keeper) -> KeyringStatus:
    """Return all that can be told now: while the service is locked, what needs no key.

    Raises:
        StartupError: the keyring, or a wrap, is damaged or of a later version.
        Unavailable: the store does not answer.
    """
    state = state_of(keeper)
    said = KeyringStatus(state=state, wrong_keys=keeper.wrong_keys, wait=keeper.wait)
    if state in ("uninitialized", "locked"):
        sealed = await vault.read(store)
        if sealed is not None:
            said.root, said.recipients = sealed.root, await recipients(store, sealed.root)
        return said
    document, said.root = await read(store, keeper)
    said.recipients = await recipients(store, said.root)
    said.keysets = [await _keyset(store, name, document.keysets[name]) for name in sorted(document.keysets)]
    said.places = [
        Place(prefix=prefix, keyset=each.keyset, before=list(each.before)) for prefix, each in document.places.items()
    ]
    said.backups = backups(document)
    said.pending = await pending(store, document, said.root)
    if document.halted is not None:
        halt = document.halted
        said.halted = Halt(keyset=halt.keyset, since=halt.since, reason=halt.reason)
    said.counted = document.counted
    if said.state == "unlocked" and said.pending:
        said.state = "rotating"
    return said


async def recipients(store: Backend, root: str) -> list[Recipient]:
    """Return who can open the root key with the kid *root*, as the store says.

    Raises:
        StartupError: a wrap is damaged or of a later version.
        Unavailable: the store does not answer.
    """
    return [
        Recipient(kind=wrap.kind, id=wrap.id, created=wrap.created, needed=wrap.threshold, total=wrap.total)
        for wrap in await wraps.wraps_of(store, root)
    ]


def backups(document: Document) -> list[Backup]:
    """Return the registered backups."""
    return [
        Backup(label=label, taken=each.taken, versions=list(each.versions)) for label, each in document.backups.items()
    ]


async def pending(store: Backend, document: Document, root: str) -> list[Pending]:
    """Return what was begun and not finished, or is due, each with the command that goes on with it.

    Args:
        store: the bare store.
        document: the keyring document.
        root: the kid of the root key it is under.
    """
    due: list[Pending] = []
    if document.halted is not None:
        name = document.halted.keyset
        due.append(Pending(what="halted", keyset=name, command=f"strongroom key reencrypt {name} --resume"))
    for name in sorted(document.keysets):
        left = [prefix for prefix in rows_to_move(document, name) if (await store.list(prefix, limit=1)).names]
        reverting = document.keysets[name].reverting
        moving = any(place.before for place in document.places.values() if place.keyset == name)
        if left or reverting or moving:
            what = "revert" if reverting else "re-encrypt"
            records = sum([await _count(store, prefix) for prefix in left])
            command = f"strongroom key reencrypt {name}"
            due.append(Pending(what=what, keyset=name, records=records, command=command))
    if not document.counted:
        due.append(Pending(what="count", command="strongroom key census --scan --repair"))
    due += [
        Pending(what="confirm", root=kid, command=f"strongroom key rotate root --confirm {kid}")
        for kid in sorted(await _prepared(store) - {root})
    ]
    return due


def rows_to_move(document: Document, name: str) -> list[str]:
    """Return the prefixes of the census whose records are to be re-encrypted under the active version of *name*."""
    keyset = document.keyset(name)
    prefixes = [
        census.rows_of(f"{name}.{version.number}") for version in keyset.versions if version.number != keyset.active
    ]
    for prefix, place in document.places.items():
        if place.keyset == name:
            prefixes += [
                census.row(f"{before}.{version.number}", prefix)
                for before in place.before
                for version in document.keyset(before).versions
            ]
    return prefixes


async def names_left(store: Backend, document: Document, name: str) -> tuple[str, ...]:
    """Return records still to be moved to the active version of *name*, as ``default.2: secrets/a``; at most 20."""
    found: list[str] = []
    for prefix in rows_to_move(document, name):
        if (room := MAX_NAMED - len(found)) > 0:
            rows = [census.read(row) for row in (await store.list(prefix, limit=room)).names]
            found += [f"{version}: {record}" for version, record in filter(None, rows)]
    return tuple(found)


async def _keyset(store: Backend, name: str, keyset: KeysetOf) -> Keyset:
    return Keyset(
        name=name,
        active=f"{name}.{keyset.active}",
        keys=keyset.keys,
        reverting=keyset.reverting,
        protected=name in PROTECTED,
        versions=[
            Version(
                version=f"{name}.{version.number}",
                created=version.created,
                keys=len(version.keys),
                active=version.number == keyset.active,
                records=await _count(store, census.rows_of(f"{name}.{version.number}")),
            )
            for version in keyset.versions
        ],
    )


async def _prepared(store: Backend) -> set[str]:
    """Return the kids of all root keys that have wraps."""
    kids = {name.removeprefix(wraps.WRAPS).partition("/")[0] async for name in _names(store, wraps.WRAPS)}
    return set(filter(is_root_kid, kids))


async def _count(store: Backend, prefix: str) -> int:
    return sum([1 async for _ in _names(store, prefix)])


async def _names(store: Backend, prefix: str) -> AsyncIterator[str]:
    after: str | None = None
    while True:
        page = await store.list(prefix, after)
        for name in page.names:
            yield name
        if not page.more:
            return
        after = page.names[-1]
