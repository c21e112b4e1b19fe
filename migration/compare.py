"""Decide what to do about one record: the rules, and their reading of both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.journal import Copy
from strongroom.migration.records import Item, Moving, Record
from strongroom.migration.target import Held, Target
from strongroom.models import names
from strongroom.models.errors import InvalidName, ValidationError
from strongroom.models.names import TOMBSTONES
from strongroom.storage_service.wire import MAX_SECRET, fits


class Policy(StrEnum):
    """What to do where the service holds something else under a record's name."""

    STOP = "stop"
    KEEP = "keep"  # what the service holds
    REPLACE = "replace"  # by what the source holds
    NEWER = "newer"  # whichever of the two changed since they were equal; where both did, or nobody knows: stop


class Act(StrEnum):
    """What is to become of a record."""

    CREATE = "create"
    REPLACE = "replace"
    PRESENT = "present"  # it is there, and equal
    KEEP = "keep"  # it is there, and differs
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Decision:
    """A record, what is to become of it, and what lies under its name now."""

    item: Item
    record: Record
    act: Act
    digest: str
    held: Held | None
    last: Copy | None  # what the journal says of it
    ours: bool = False  # what lies there is what this run wrote
    why: str = ""  # of a conflict
    no_host: bool = False  # they are credentials, and neither the service nor their item has the host


def decide(digest: str, held: str | None, last: Copy | None, *, deleted: bool, policy: Policy) -> tuple[Act, str]:
    """Return what to do about a record, and in words why it is a conflict if it is one.

    Args:
        digest: of what the source holds.
        held: digest of what the service holds, None where there is nothing.
        last: how this run left it, if it met it before.
        deleted: whether somebody removed it from the service since, or before it had moved.
        policy: for conflicts. Our own copy, unchanged since, is no conflict: it follows the source.
    """
    if held == digest:
        return Act.PRESENT, ""
    if held is None and not deleted:
        return Act.CREATE, ""
    ours = last is not None and last.act != "kept"
    if held is not None and ours and last is not None and held == last.digest:
        return Act.REPLACE, ""
    only_there = ours and last is not None and digest == last.digest
    if held is None:
        why = "it was deleted in the service since"
    elif only_there:
        why = "it was changed in the service since"
    elif ours:
        why = "it was changed on both sides since"
    else:
        why = "the service holds another value"
    if policy is Policy.KEEP or (policy is Policy.NEWER and only_there):
        return Act.KEEP, ""
    if policy is Policy.REPLACE:
        return (Act.CREATE if held is None else Act.REPLACE), ""
    return Act.CONFLICT, why


def fault_of(record: Record) -> str:
    """Return why a record cannot be stored, "" if it can."""
    try:
        names.check(record.name)
    except InvalidName as error:
        return f"its name cannot be used: {error}"
    if names.is_container(record.name):
        return "" if not record.value else "a container has no value"
    if not record.value:
        return "it is empty, and an empty secret cannot be stored"
    if not fits(record.value.reveal().encode(errors="surrogatepass")):
        return f"it is larger than {MAX_SECRET // 1024} KiB"
    if not record.sealed:
        return _fault_of_plain(record)
    return "a secret must lie in a container" if names.container_of(record.name) == names.SECRETS else ""


def _fault_of_plain(record: Record) -> str:
    try:
        model = record.model()
    except KeyError:
        return "records of that kind are not kept"
    except ValidationError as error:
        return "; ".join(f"{fault.field} {fault.reason}" for fault in error.faults)
    return "" if model.record_name == record.name else "its name is not that of its record"


class Comparison:
    """Reads both sides of a batch and decides, by one policy."""

    def __init__(self, target: Target, digest: Digest, copies: DiskMap, policy: Policy) -> None:
        """Take what is needed; *copies* has the journal's `Copy` of every record that it knows, by name."""
        self._target = target
        self._digest = digest
        self._copies = copies
        self._policy = policy

    async def of(self, records: Sequence[Moving]) -> Sequence[Decision]:
        """Return the decision for each record, in their order."""
        wanted = [each.record.name for each in records]
        held = await self.held(wanted)
        copies = self._copies.get_many(wanted)
        decisions = []
        for item, record, digest in records:
            there = held.get(record.name)
            known = copies.get(record.name)
            last = None if known is None else msgspec.json.decode(known, type=Copy)
            lies = None if there is None else self.digest(record.name, there)
            ours = last is not None and last.act in ("created", "replaced") and lies == last.digest
            # What is sealed is written together with its row, so if it is gone then somebody removed it.
            deleted = there is None and (
                (last is not None and record.sealed and last.act != "kept") or TOMBSTONES + record.name in held
            )
            act, why = decide(digest, lies, last, deleted=deleted, policy=self._policy)
            decisions.append(Decision(item, record, act, digest, there, last, ours, why))
        return decisions

    async def held(self, wanted: Sequence[str]) -> Mapping[str, Held]:
        """Return what the service holds under *wanted*, and their tombstones."""
        if not (await self._target.client.list_bulk(TOMBSTONES, limit=1)).names:
            return await self._target.read(wanted)
        return await self._target.read(
            [*wanted, *(TOMBSTONES + name for name in wanted if name.startswith(names.SECRETS))]
        )

    def digest(self, name: str, value: Held) -> str:
        """Return the keyed hash of what lies under a name."""
        return self._digest.of(name, value.value.reveal())
