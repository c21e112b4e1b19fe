"""Bringing an exported keyring back: to a store that has none, or into the keyring that it has.

    the store has       what is done
    no keyring          the exported one becomes its keyring, with all recipients
    the same root key   generations that the store does not have any more join its own, none of them active
    another root key    the same, if that root key is given as well; else it is refused, or, if so told, replaced

Before anything is written all sealed records are tried, for a keyring must not take a place where records need another
one. What is written comes in one commit, or where that is too small the wraps first and the document last: whoever is
killed before that leaves a store with the keyring that it had, and can begin again.

Records that were put back may be under generations that the document has long forgotten them to be under. So each place
learns which keysets its records are found under, and the index counts as incomplete until it was repaired.
"""

import hmac
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from strongroom.models.names import ENCRYPTED, KEYRING_DOCUMENT, USAGE
from strongroom.storage_service.backends.base import (
    ABSENT,
    Backend,
    Change,
    Conflict,
    Entry,
    Put,
    Vacant,
    pages,
)
from strongroom.storage_service.errors import Exists, InUse, KeyringDamaged, KeyringOutdated, Overtaken, Undecipherable
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import export
from strongroom.storage_service.keyring.ceremonies.export import Exported
from strongroom.storage_service.keyring.document import Assignment, Document, Generation, Keyset
from strongroom.storage_service.keyring.machines.stored import MachineDocuments, StoredDocuments
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.ring import DEFAULT_KEYSET, Ring, generation_of
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.usage import index, records

NAMED: Final = 20  # records that a refusal names; it counts them all


class Restored(NamedTuple):
    """What was brought back."""

    root: str  # kid of the root key that the store's keyring is under now
    added: tuple[str, ...]  # generations that the store did not have
    unreadable: tuple[str, ...]  # records that open under no key of its keyring
    counted: bool  # whether the index is complete; else it has to be repaired


class _Plan(NamedTuple):
    """What is to become of the store's keyring."""

    document: Document
    writer: RootKey  # what the document is written under
    added: tuple[str, ...]
    whole: bool  # the exported keyring, recipients and all, and not generations of it in the store's own


@dataclass(slots=True)
class _Survey:
    """What the sealed records of a store are under."""

    records: int = 0
    unreadable: dict[str, str | None] = field(default_factory=dict)  # by name, the kid that it claims
    strays: dict[str, set[str]] = field(default_factory=dict)  # by place, keysets that it does not speak of


async def restore(
    backend: Backend,
    exported: Exported,
    root: RootKey,
    *,
    machines: MachineDocuments | None = None,
    own: RootKey | None = None,
    replace: bool = False,
    leave_unreadable: bool = False,
    seen: Seen | None = None,
) -> Restored:
    """Bring the keyring in *exported* back to a store, and return what that changed.

    Whatever key opens a wrap of the export opens the store afterwards, but where only generations join a keyring under
    another root key. Machines come back with a whole keyring alone: one that is gone was revoked.

    Args:
        backend: the store, opened; the bare one.
        exported: the file.
        root: the root key in it, from `export.open_root`.
        machines: where the documents of machines belong; None: in the store.
        own: the root key of the store's own keyring, where that is another one.
        replace: put the exported keyring in the place of one that does not open; no service may use the store then.
        leave_unreadable: make it the store's keyring although records open under none of its keys. Generations that
            join one make nothing unreadable, so there it is not asked.
        seen: which keyring this home has seen; it remembers what is brought back.

    Raises:
        Exists: the store has a keyring under another root key, or a kid means two keys.
        InUse: records are under keys that the export does not have (names some), or the generations are too many.
        Overtaken: somebody else changed the keyring meanwhile, or used it while it was replaced; nothing was done.
        Invalid, WrongRootKey, ConfigurationError: as `export.prove`.
        KeyringDamaged: the store's own keyring does not open.
        KeyringOutdated: it is older than the one that was seen here, and is not to be replaced.
        Unavailable: with its fate.
    """
    theirs = export.prove(exported, root)  # old or not: that it is to come back is what the operator says
    for each in filter(None, (root, own)):
        each.seen = seen
    present = await backend.get(KEYRING_DOCUMENT)
    plan = _plan(theirs, root, present, own, replace)
    survey = await _look(backend, plan.document)
    if plan.whole and not leave_unreadable:
        _refuse_unreadable(survey.unreadable)
    vacant = plan.whole and not await _used(backend)
    guards = [Vacant(prefix) for prefix in (*ENCRYPTED, USAGE)] if vacant else []
    counted = vacant if plan.whole else plan.document.counted and not survey.records
    document = msgspec.structs.replace(_at_home(plan, survey), counted=counted)
    also = await _recipients(exported, machines or StoredDocuments(backend), plan)
    also = await _commit_early(backend, also, backend.max_batch - len(guards) - 1)
    expected = ABSENT if present is None else present.revision
    document, revision = await stored.replace(backend, plan.writer, document, expected, [*also, *guards])
    if present is not None and plan.whole:
        await _undo_if_used(backend, present, document, revision, survey.unreadable, seen=seen)
    return Restored(plan.writer.kid, plan.added, tuple(sorted(survey.unreadable)), document.counted)


def union(own: Document, other: Document) -> tuple[Document, tuple[str, ...]]:
    """Return *own* with the generations that only *other* has, and which those are; none of them becomes active.

    A keyset that only *other* has comes as it is. Of everything else, *own* holds: it is what the store does now.

    Raises:
        Exists: a kid is one key in *own* and another in *other*.
        InUse: a record could be under too many generations.
    """
    keysets = dict(own.keysets)
    for name, theirs in other.keysets.items():
        ours = keysets.get(name)
        keysets[name] = theirs if ours is None else _joined(name, ours, theirs)
    numbers = {
        name: max(own.numbers.get(name, 0), other.numbers.get(name, 0)) for name in {**own.numbers, **other.numbers}
    }
    joined = msgspec.structs.replace(own, keysets=keysets, numbers=numbers)
    added = tuple(generation for generation in joined.generations if generation not in own.generations)
    return joined.not_too_wide() if added else joined, added


def _joined(name: str, ours: Keyset, theirs: Keyset) -> Keyset:
    held = {generation.number: generation for generation in ours.generations}
    for generation in theirs.generations:
        if not _same(held.setdefault(generation.number, generation), generation):
            raise Exists(
                f"generation {name}.{generation.number} is one key in the store and another in the export; "
                "they cannot be joined"
            )
    return msgspec.structs.replace(ours, generations=tuple(held[number] for number in sorted(held)))


def _same(one: Generation, other: Generation) -> bool:
    return len(one.keys) == len(other.keys) and hmac.compare_digest(b"".join(one.keys), b"".join(other.keys))


def _plan(theirs: Document, root: RootKey, present: Entry | None, own: RootKey | None, replace: bool) -> _Plan:
    """Return what is to become of the keyring that is *present*."""
    # What was prepared for another root key is not in the export.
    whole = _Plan(theirs.with_pending(None), root, theirs.generations, True)
    if present is None:
        return whole
    kid = jwe.kid_of(present.value)
    held = next((each for each in (root, own) if each is not None and each.kid == kid), None)
    try:
        if held is not None:
            ours = stored.open_document(stored.Sealed(present.value, present.revision, held.kid), held)
            document, added = union(ours, theirs)
            return _Plan(document, held, added, False)
        if kid is None or not is_root_kid(kid):
            raise KeyringDamaged(f"the store's {KEYRING_DOCUMENT} is not a keyring")
    except (KeyringDamaged, KeyringOutdated):
        if replace:
            return whole
        raise
    if replace:
        return whole
    raise Exists(
        f"the store has a keyring under {kid}, and the export is one under {root.kid}: give a key of the store's own "
        "as well to join them, or replace it"
    )


# The records


async def _look(backend: Backend, document: Document) -> _Survey:
    """Try every sealed record of the store with the keys of *document*."""
    survey = _Survey()
    ring = document.ring()
    try:
        async for name, entry in _records(backend):
            survey.records += 1
            kid = jwe.kid_of(entry.value)
            try:
                jwe.decrypt(ring.everywhere, name, entry.value)  # wherever it may be: `_at_home` follows
            except Undecipherable:
                survey.unreadable[name] = kid
            else:
                _note_stray(survey, ring, document, name, kid)
    finally:
        ring.wipe()
    return survey


def _note_stray(survey: _Survey, ring: Ring, document: Document, name: str, kid: str | None) -> None:
    generation = None if kid is None else generation_of(kid)
    if generation is not None and generation not in ring.generations_of(name):
        place = max((prefix for prefix in document.places if name.startswith(prefix)), key=len, default="")
        survey.strays.setdefault(place, set()).add(generation.rpartition(".")[0])


async def _records(backend: Backend) -> AsyncIterator[tuple[str, Entry]]:
    for prefix in ENCRYPTED:
        async for names in pages(backend.list, prefix, records.READ):
            for name, entry in (await backend.get_many(names)).items():
                if index.is_counted(name):
                    yield name, entry


def _refuse_unreadable(unreadable: Mapping[str, str | None]) -> None:
    """Raise InUse if there is any record that would not open."""
    if unreadable:
        kids = sorted({kid for kid in unreadable.values() if kid is not None and generation_of(kid) is not None})
        raise InUse(
            f"{len(unreadable)} records of the store do not open with the keys of the export"
            + (f": they are under {', '.join(kids[:NAMED])}" if kids else ""),
            tuple(sorted(unreadable)[:NAMED]),
        )


async def _used(backend: Backend) -> bool:
    """Whether there is anything that the index could be wrong about."""
    return any([(await backend.list(prefix, limit=1)).names for prefix in (*ENCRYPTED, USAGE)])


# The document


def _at_home(plan: _Plan, survey: _Survey) -> Document:
    """Return the document with a place for all records, and so that no number of theirs is given out again."""
    document = plan.document
    places, numbers = dict(document.places), dict(document.numbers)
    for prefix, found in survey.strays.items():
        place = places.get(prefix, Assignment(DEFAULT_KEYSET))
        places[prefix] = Assignment(place.keyset, (*place.before, *sorted(found - {place.keyset, *place.before})))
    for kid in survey.unreadable.values() if plan.whole else ():  # the store's own document knows its numbers
        generation = None if kid is None else generation_of(kid)
        if generation is not None:
            keyset, _, number = generation.rpartition(".")
            numbers[keyset] = max(numbers.get(keyset, 0), int(number))
    return msgspec.structs.replace(document, places=places, numbers=numbers)


# The store


async def _recipients(exported: Exported, machines: MachineDocuments, plan: _Plan) -> Sequence[Change]:
    """Return the changes that give the store the wraps of the export, and its machines with a whole keyring."""
    if plan.writer.kid != exported.root:
        return []
    changes: list[Change] = [wraps.put(each) for each in exported.wraps]
    for document in exported.machines if plan.whole else ():
        if isinstance(machines, StoredDocuments):
            changes.append(machines.put(document))
        else:
            await machines.save(document)  # opens nothing until there is a keyring under its root key
    return changes


async def _commit_early(backend: Backend, changes: Sequence[Change], room: int) -> Sequence[Change]:
    """Commit what is too much for a last commit with *room* for so many, and return the rest."""
    early = changes[: max(0, len(changes) - room)]
    for start in range(0, len(early), backend.max_batch):
        await backend.commit(early[start : start + backend.max_batch])
    return changes[len(early) :]


async def _undo_if_used(
    backend: Backend, before: Entry, after: Document, revision: int, known: Container[str], *, seen: Seen | None
) -> None:
    """Put the keyring that was replaced back, if a service wrote records under it after they were looked at.

    Raises:
        Overtaken: one did.
    """
    if all(name in known for name in (await _look(backend, after)).unreadable):
        return
    with suppress(Conflict):
        await backend.commit([Put(KEYRING_DOCUMENT, before.value, expected=revision)])
    if seen is not None:
        await seen.forget()
    raise Overtaken("a service used the keyring that was to be replaced; stop it first")
