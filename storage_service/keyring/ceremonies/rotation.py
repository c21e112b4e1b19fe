"""The first root key of a store, and the next one in the place of the one in use.

    initialize   a first root key: the document under it and the wraps for its recipients, in one commit
    take_back    a first root key that nobody got to see is gone again, with the document, in one commit
    prepare      the next root key: wraps for its recipients beside those in use; the document tells of it
    confirm      its recipients have shown that they open it: the document is rewritten under it, in one commit
    abandon      what was prepared is dropped
    tidy         what opens nothing any more is dropped

The document names the root key that it is under, and that alone says which wraps count. So there is one moment, the
commit of `confirm`, before which the old recipients open the keyring and after which the new ones do; whoever is
killed on either side of it leaves things that open nothing, for the next to drop. Which root key is prepared, and for
whom, the document says, too: that is authentic, while wraps are the store's and prove nothing until they open.

A rotation of the root key changes who opens the keyring from now on, and no data key: whoever had the old root key and
a copy of the store reads what is in that copy, and what is written later under the data keys that are in it.

Everything here takes the bare store, opened. `KeyringDamaged` and `ConfigurationError` mean that what lies there is
broken or of a later version, and come out of every function; so does `Unavailable`, with the fate of what was done.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from strongroom.models.names import ENCRYPTED, KEYRING_DOCUMENT, WRAPS
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Check, Conflict, Delete, Vacant
from strongroom.storage_service.errors import (
    Exists,
    Fate,
    InUse,
    Invalid,
    KeyringDamaged,
    NotFound,
    Overtaken,
    StrongroomError,
    Unavailable,
    WrongKey,
    WrongRootKey,
)
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import recipients
from strongroom.storage_service.keyring.ceremonies.recipients import Evidence, Recipients
from strongroom.storage_service.keyring.document import Document, Pending
from strongroom.storage_service.keyring.machines import endorsement
from strongroom.storage_service.keyring.machines import wraps as machine_wraps
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.opening.key_files import KeyFiles
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.stored import Sealed

__all__ = ["Made", "Recipients", "abandon", "confirm", "initialize", "prepare", "take_back", "tidy"]

log: Final = logging.getLogger(__name__)


class Made(NamedTuple):
    """A root key that was made: its kid, and what people are to be given, which is shown once and kept nowhere."""

    root: str
    secrets: tuple[Secret, ...]


async def initialize(
    store: Backend,
    to: Recipients,
    file: KeyFile | None,
    keys_per_generation: int = 1,
    *,
    machines: MachineDocuments | None = None,
    machine: MachineDocument | None = None,
    again: bool = False,
    seen: Seen | None = None,
) -> Made:
    """Give *store* its first keyring.

    Args:
        store: the store.
        to: who is to open it.
        file: the root key file, which is made if it is meant and not there.
        keys_per_generation: how many keys the first generation of each keyset gets.
        machines: where the documents of machines lie.
        machine: the first machine, which is authorized, and may authorize others.
        again: take the place of a keyring under which nothing is encrypted: of one whose keys nobody got to see.
        seen: what is to remember the keyring.

    Raises:
        Exists: the store has a keyring.
        InUse: *again*, but something is encrypted.
        Invalid: the file cannot be made or used, or there is no machine where only machines are meant.
    """
    if to.mode == "machine" and (machine is None or machines is None):
        raise Invalid("the first machine makes the keyring", (("mode", "is of machines"),)).advising(
            Step("on that machine", "machine init")
        )
    sealed = await stored.read(store)
    if sealed is not None and not again:
        raise _initialized()
    unused = [] if sealed is None else await _unused(store)
    root = stored.new_root()
    root.seen = seen
    try:
        key = await KeyFiles(file).make() if to.mode == "file" else None
        wrapped = await recipients.wrap(root, to, key)
        also = [*unused, *map(wraps.put, wrapped.wraps)]
        if machine is not None and machines is not None:
            also += await machine_wraps.save(machines, [(machine.with_root(root, allowed=True), None)])
        document = Document.new(stored.now(), keys_per_generation)
        await _switch(store, root, document, ABSENT if sealed is None else sealed.revision, also)
        if sealed is not None:
            await _tidy_in_passing(store, root, machines)
        return Made(root.kid, wrapped.secrets)
    except Overtaken:
        raise _initialized() from None
    finally:
        root.wipe()


async def take_back(store: Backend, root: str) -> None:
    """Undo `initialize`: let *store* have no keyring, as nothing is encrypted under the one it has.

    Args:
        store: the store.
        root: the kid of the root key that `initialize` made.

    Raises:
        NotFound: another root key is in use, or none.
        InUse: something is encrypted under it.
        Overtaken: somebody else changed the keyring or used it meanwhile; nothing was done.
    """
    sealed = await stored.read(store)
    if sealed is None or sealed.root != root:
        raise NotFound("that root key is not in use")
    guards = await _unused(store)
    gone = [Delete(wraps.name_of(root, wrap.recipient)) for wrap in await wraps.wraps_of(store, root)]
    try:
        await store.commit([Delete(KEYRING_DOCUMENT, expected=sealed.revision), *gone, *guards])
    except Conflict:
        raise Overtaken("somebody else changed the keyring or used it meanwhile") from None


async def prepare(
    store: Backend, root: RootKey, to: Recipients, file: KeyFile | None, machines: MachineDocuments
) -> Made:
    """Make the next root key, and wrap it for *to* and for all machines; it opens nothing before `confirm`.

    One that was prepared before does not count any more.

    Args:
        store: the store.
        root: the root key in use.
        to: who is to open the keyring, besides machines.
        file: the root key file; a next one is made beside it if it is not to be kept.
        machines: where the documents of machines lie.

    Raises:
        Invalid: the file cannot be made or used, or nobody would open the keyring; nothing was done.
        InUse: a machine would be shut out; nothing was done.
        Overtaken: somebody else changed the keyring meanwhile; of what was done nothing counts.
    """
    files = KeyFiles(file)
    new = stored.new_root()
    try:
        async with files.alone():
            sealed, document = await _opened(store, root)
            await files.settle(store, root)
            key = None
            if to.mode == "file":
                key = await (files.kept() if to.keep_file else files.make_next())
        async with _undisturbed(store, sealed.revision):
            changed = await machine_wraps.for_all(machines, root, new)
        if to.mode == "machine" and not changed:
            raise Invalid("no machine is authorized, so nobody would open the keyring", (("mode", "is of machines"),))
        wrapped = await recipients.wrap(new, to, key)
        also = [*await machine_wraps.save(machines, changed), *map(wraps.put, wrapped.wraps)]
        pending = Pending(new.kid, stored.now(), tuple(wrap.recipient for wrap in wrapped.wraps))
        rest = await _all_but_the_last(store, also, sealed.revision)
        await stored.replace(store, root, document.with_pending(pending), sealed.revision, rest)
        await _tidy_in_passing(store, root, machines)
        return Made(new.kid, wrapped.secrets)
    finally:
        new.wipe()


async def confirm(  # noqa: PLR0917 - a rotation touches as many things
    store: Backend,
    root: RootKey,
    new_root: str,
    text: str | None,
    file: KeyFile | None,
    machines: MachineDocuments,
    machine: MachineKey | None = None,
) -> RootKey:
    """Put the root key that was prepared in the place of the one in use, once its recipients show that they open it.

    Asked again after an answer that did not come, this does what is left to do.

    Args:
        store: the store.
        root: the root key in use.
        new_root: the kid of the one that was prepared.
        text: all of the new unlock keys, or as many shares as are needed, or more: a line each.
        file: the root key file; the new one is read back from the disk.
        machines: where the documents of machines lie.
        machine: this machine's key, which has to open what only machines are to open.

    Returns:
        The new root key, which is the caller's to wipe.

    Raises:
        Mistyped: what was typed does not open it, or not all was typed; nothing was done.
        Invalid: the new file is not there, or this machine does not open it; nothing was done.
        WrongKey: there is no wrap of it for this machine; nothing was done.
        InUse: a machine would be shut out; nothing was done.
        Overtaken: somebody else changed the keyring meanwhile, or prepared another root key; nothing was done.
    """
    evidence = Evidence(text, KeyFiles(file), machines, machine)
    sealed = await _read(store)
    if sealed.root == new_root:
        new = await _finish(store, sealed, root, evidence)
    else:
        new = await _replace(store, sealed, root, new_root, evidence)
    await _tidy_in_passing(store, new, machines)
    return new


async def abandon(
    store: Backend, root: RootKey, new_root: str, file: KeyFile | None, machines: MachineDocuments
) -> None:
    """Drop the root key that was prepared; asked again, this does what is left to do.

    Args:
        store: the store.
        root: the root key in use.
        new_root: the kid of the one that was prepared.
        file: the root key file; the next one is removed.
        machines: where the documents of machines lie.

    Raises:
        NotFound: another one is prepared; it stays.
        InUse: it is the root key in use.
        Invalid: the file cannot be removed; what was prepared opens nothing all the same.
        Overtaken: somebody else changed the keyring meanwhile; nothing was done.
    """
    if new_root == root.kid:
        raise InUse("that root key is in use", ("the keyring",))
    files = KeyFiles(file)
    async with files.alone():
        sealed, document = await _opened(store, root)
        if document.pending is not None:
            if document.pending.root != new_root:
                raise NotFound("that root key is not prepared")
            await stored.replace(store, root, document.with_pending(None), sealed.revision)
        await files.settle(store, root)
    await _tidy_in_passing(store, root, machines)


async def tidy(store: Backend, root: RootKey, machines: MachineDocuments | None = None) -> None:
    """Drop the wraps of all root keys but the one in use and the one that is prepared: they open nothing.

    Args:
        store: the store.
        root: the root key in use.
        machines: where the documents of machines lie, which hold wraps, too.

    Raises:
        Overtaken: somebody else changed the keyring meanwhile; some may be left.
    """
    sealed, document = await _opened(store, root)
    kept = [root.kid] if document.pending is None else [root.kid, document.pending.root]
    prefixes = tuple(f"{WRAPS}{kid}/" for kid in kept)
    changes: list[Change] = [
        change for change in await wraps.others_than(store, root.kid) if not change.name.startswith(prefixes)
    ]
    changes += await endorsement.others_than(store, kept)
    if machines is not None:
        changes += await machine_wraps.save(machines, await machine_wraps.without_others(machines, kept))
    if rest := await _all_but_the_last(store, changes, sealed.revision):
        await _beside(store, rest, sealed.revision)


async def _tidy_in_passing(store: Backend, root: RootKey, machines: MachineDocuments | None) -> None:
    """Drop what opens nothing, if that can be done now: what was asked for is done, and the next will come by here."""
    try:
        await tidy(store, root, machines)
    except StrongroomError as error:
        log.warning("wraps of root keys no longer in use are still in the store: %s", error)


# The switch


async def _replace(store: Backend, sealed: Sealed, root: RootKey, new_root: str, evidence: Evidence) -> RootKey:
    """Put the root key *new_root* in the place of *root*, and return it."""
    document = _document(sealed, root)
    if document.pending is None or document.pending.root != new_root:
        raise Overtaken("that root key is not prepared, or no longer")
    files, meant = evidence.files, document.pending.recipients
    async with _undisturbed(store, sealed.revision):
        new = await evidence.open(store, new_root, meant)
    new.seen = root.seen
    try:
        # Machines that were authorized since it was prepared have no wrap of it.
        async with _undisturbed(store, sealed.revision):
            changed = await machine_wraps.for_all(evidence.machines, root, new)
        saved = await machine_wraps.save(evidence.machines, changed)
        also = await _all_but_the_last(store, [*saved, endorsement.endorse(root, new)], sealed.revision)
        if not recipients.is_for_file(meant):
            await _switch(store, new, document.with_pending(None), sealed.revision, also)
            return new
        async with files.alone():
            key = await files.prepared(meant)  # once more: from here on nobody can take it away
            await _switch(store, new, document.with_pending(None), sealed.revision, also)
            try:
                await files.take_place(key)
            except Invalid as error:  # whoever opens the keyring next finds it where it is
                log.warning("the new root key file is still beside the old one: %s", error)
    except BaseException:
        new.wipe()
        raise
    return new


async def _finish(store: Backend, sealed: Sealed, root: RootKey, evidence: Evidence) -> RootKey:
    """Do what an earlier `confirm` has left to do, and return the root key that it put into use."""
    if sealed.root == root.kid:
        new = RootKey(root.reveal())
    else:
        held = [wrap.recipient for wrap in await wraps.wraps_of(store, sealed.root)]
        new = await evidence.open(store, sealed.root, held)
    new.seen = root.seen
    async with evidence.files.alone():
        await _opened(store, new)
        await evidence.files.settle(store, new)
    return new


async def _switch(store: Backend, root: RootKey, document: Document, revision: int, also: Sequence[Change]) -> None:
    """Put *document* under *root* in the place of the one at *revision*: from then on *root* is in use.

    Where the answer is lost the store is looked at once, for it may show that the commit was done.
    """
    try:
        await stored.replace(store, root, document, revision, also)
    except Unavailable as error:
        if error.fate is Fate.NOT_APPLIED or not await _is_in_use(store, root.kid):
            raise


async def _is_in_use(store: Backend, root: str) -> bool:
    try:
        return (await _read(store)).root == root
    except StrongroomError:
        return False


# The document, and what is committed beside it


async def _read(store: Backend) -> Sealed:
    sealed = await stored.read(store)
    if sealed is None:
        raise Overtaken("the keyring is gone")
    return sealed


async def _opened(store: Backend, root: RootKey) -> tuple[Sealed, Document]:
    try:
        document, sealed = await stored.current(store, root)
    except WrongRootKey:
        raise Overtaken("the root key was rotated meanwhile") from None
    return sealed, document


def _document(sealed: Sealed, root: RootKey) -> Document:
    if sealed.root != root.kid:
        raise Overtaken("the root key was rotated meanwhile")
    return stored.open_document(sealed, root)


@asynccontextmanager
async def _undisturbed(store: Backend, revision: int) -> AsyncIterator[None]:
    """Inside, report a missing wrap as `Overtaken` if the document is no longer at *revision*: somebody dropped it."""
    try:
        yield
    except (InUse, KeyringDamaged, WrongKey):
        if (await _read(store)).revision != revision:
            raise Overtaken("somebody else changed the keyring meanwhile") from None
        raise


async def _all_but_the_last(store: Backend, changes: Sequence[Change], revision: int) -> Sequence[Change]:
    """Commit as many of *changes* as do not fit into one commit with the document, and return the others."""
    room = store.max_batch - 1
    while len(changes) > room:
        await _beside(store, changes[:room], revision)
        changes = changes[room:]
    return changes


async def _beside(store: Backend, changes: Sequence[Change], revision: int) -> None:
    """Commit *changes* if the document is at *revision*."""
    try:
        await store.commit([*changes, Check(KEYRING_DOCUMENT, revision)])
    except Conflict:
        raise Overtaken("somebody else changed the keyring meanwhile") from None


# The first keyring


async def _unused(store: Backend) -> list[Change]:
    """Return the guards of a commit that needs a store in which nothing is encrypted."""
    if holders := [prefix for prefix in ENCRYPTED if (await store.list(prefix, limit=1)).names]:
        raise InUse("the keyring is in use: something is encrypted under it", tuple(holders))
    return [Vacant(prefix) for prefix in ENCRYPTED]


def _initialized() -> Exists:
    return Exists("the store is initialized already, and its keyring is kept")
