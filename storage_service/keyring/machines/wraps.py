"""The wraps for machines, when a root key takes the place of another: all machines get the new one, or nothing is done.

A machine of which that cannot be done would be shut out without a word; so it is named, and somebody has to revoke it
or to authorize it again first.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from strongroom.storage_service.backends.base import Change, Conflict, Entry
from strongroom.storage_service.errors import ConfigurationError, InUse, KeyringDamaged, Overtaken
from strongroom.storage_service.keyring.machines.document import SHORT, FlagTampered, MachineDocument
from strongroom.storage_service.keyring.machines.stored import MachineDocuments, StoredDocuments
from strongroom.storage_service.keyring.rootkey import RootKey

Changed: TypeAlias = Sequence[tuple[MachineDocument, int | None]]
"""Documents to write, each with the revision that it is to take the place of; None: whatever is there."""


async def for_all(machines: MachineDocuments, old: RootKey, new: RootKey) -> Changed:
    """Return the documents that have to change so that every machine that opens *old* opens *new*, too.

    Raises:
        InUse: a document cannot be read, or no flag shows that a holder of *old* authorized its machine.
        Unavailable: the documents cannot be reached.
    """
    return await asyncio.to_thread(_rewrapped, await machines.get_all(), old, new)


async def without_others(machines: MachineDocuments, kept: Collection[str]) -> Changed:
    """Return the documents that have wraps of other root keys than *kept*, without these.

    Raises:
        Unavailable: the documents cannot be reached.
    """
    changed: list[tuple[MachineDocument, int]] = []
    for fingerprint, entry in (await machines.get_all()).items():
        try:
            document = MachineDocument.decode(entry.value, fingerprint)
        except (KeyringDamaged, ConfigurationError):
            continue  # whoever rotates next is told
        if not _kids(document) <= set(kept):
            changed.append((_only(document, kept), entry.revision))
    return changed


async def save(machines: MachineDocuments, changed: Changed) -> list[Change]:
    """Return the changes that write *changed* into the store; of documents that lie elsewhere there are none left.

    Raises:
        Overtaken: somebody else changed one of them meanwhile.
        Unavailable: with its fate.
    """
    if isinstance(machines, StoredDocuments):
        return [machines.put(document, revision) for document, revision in changed]
    try:
        for document, revision in changed:
            await machines.save(document, revision)
    except Conflict:
        raise Overtaken("somebody else changed the document of a machine meanwhile") from None
    return []


def _rewrapped(entries: Mapping[str, Entry], old: RootKey, new: RootKey) -> Changed:
    changed: list[tuple[MachineDocument, int]] = []
    stranded: list[str] = []
    for fingerprint, entry in entries.items():
        try:
            document = MachineDocument.decode(entry.value, fingerprint)
            if new.kid in document.keys and new.kid in document.meta.authorizer:
                document.allowed(new)  # a flag that opens is ours
            else:
                changed.append((_only(document, [old.kid]).rewrapped(old, new), entry.revision))
        except (KeyringDamaged, ConfigurationError, FlagTampered):
            stranded.append(fingerprint[:SHORT])
    if stranded:
        raise InUse(
            "machines would be left without the root key, for their documents cannot be read or do not show that they "
            "were authorized; revoke them, or authorize them again",
            tuple(f"machine {each}" for each in stranded),
        )
    return changed


def _only(document: MachineDocument, kept: Collection[str]) -> MachineDocument:
    for kid in _kids(document) - set(kept):
        document = document.without_root(kid)
    return document


def _kids(document: MachineDocument) -> set[str]:
    return {*document.keys, *document.meta.authorizer}
