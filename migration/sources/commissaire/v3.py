"""Commissaire's keys by etcd's v3 interface.

Pages are read as of one revision, while etcd keeps it. A change compares the key's revision, and reads the key instead
if that has moved on; so it may be sent again as often as it takes to learn what is there.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.sources.base import Place
from strongroom.migration.sources.commissaire.keys import MAINTENANCE, Held, read_password
from strongroom.migration.sources.commissaire.places import Machine, places_of
from strongroom.storage_service.backends.etcd.cluster import Cluster, Member
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind
from strongroom.storage_service.backends.etcd.keyspace import compare_revision, read
from strongroom.storage_service.backends.etcd.messages_pb2 import (
    CompactionRequest,
    Compare,
    DefragmentRequest,
    DeleteRangeRequest,
    KeyValue,
    MemberListRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    SnapshotRequest,
    StatusRequest,
    TxnRequest,
)
from strongroom.storage_service.backends.etcd.methods import COMPACT, DEFRAGMENT, MEMBERS, RANGE, SNAPSHOT, STATUS, TXN
from strongroom.storage_service.backends.etcd.target import Target

AT_ONCE: Final = 16  # calls under way: etcd writes them to its log together
FIRST_PAGE: Final = 32  # keys; then as many as PAGE_SIZE lets expect …
LARGEST_PAGE: Final = 256  # … up to here
PAGE_SIZE: Final = 1024 * 1024  # bytes of values
READS: Final = 32  # values in one question: at etcd's limit for one they are 48 MiB
LOOKS: Final = 128  # revisions in one question, etcd's --max-txn-ops
BARRIER: Final = "strongroom-purge"  # a key that is there while several members are compacted, and no record

_REFUSED: Final = frozenset({Kind.LOGIN, Kind.REFUSED, Kind.UNTRUSTED})
_TRY_AGAIN: Final = "see that it runs and that the place names it, then run this again"
_PURGE_AGAIN: Final = "scrub again: that compacts and defragments, for which etcd wants a user with the role root"


class EtcdKeys:
    """The keys below the prefix of *target*."""

    def __init__(self, target: Target, directories: Sequence[Path]) -> None:
        """Take the cluster, and those *directories* of its members that can be read from here; nothing is opened."""
        self.prefix = target.prefix
        self.nested = False
        self.at_once = AT_ONCE
        self._target = target
        self._directories = directories
        self._cluster = Cluster(target)
        self._first = target.prefix.encode()
        self._end = self._first[:-1] + bytes([self._first[-1] + 1])

    async def open(self) -> None:
        """Connect, log in, and see that all keys below the prefix may be read."""
        if self._target.password_file is not None:
            password = await asyncio.to_thread(read_password, self._target.password_file)
            self._cluster = Cluster(replace(self._target, password=password, password_file=None))
        try:
            with _answering():
                await self._cluster.open()
                await self._range(limit=1, keys_only=True)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let calls under way end, and disconnect."""
        if await self._cluster.drain():
            await self._cluster.close()

    async def count(self) -> int:
        """Return how many keys there are; no value is read."""
        with self._operation():
            return (await self._range(count_only=True)).count

    async def pages(self) -> AsyncGenerator[Sequence[Held], None]:
        """Yield all keys in their order, of as many bytes at a time as the last page lets expect."""
        first, revision, limit = self._first, 0, FIRST_PAGE
        while True:
            with self._operation():
                try:
                    answer = await self._range(key=first, revision=revision, limit=limit)
                except CallFailed as failure:
                    if failure.kind is not Kind.COMPACTED:
                        raise
                    revision = 0  # etcd forgot that moment meanwhile; the present is as good
                    continue
            revision = revision or answer.header.revision
            kvs = answer.kvs
            yield [held for held in map(_held, kvs) if held.key != self.prefix + BARRIER]
            if not answer.more:
                return
            first = kvs[-1].key + b"\0"
            each = sum(len(kv.value) for kv in kvs) // len(kvs) + 1
            limit = max(1, min(2 * limit, PAGE_SIZE // each, LARGEST_PAGE))

    async def get_many(self, keys: Sequence[str], *, agreed: bool = False) -> Mapping[str, Held]:  # noqa: ARG002
        """Return those of *keys* that exist; all that this interface answers is agreed."""
        return {kv.key: kv for kv in map(_held, await self._get(keys, READS))}

    async def revisions(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the revisions of those of *keys* that exist; no value is read."""
        kvs = await self._get(keys, LOOKS, keys_only=True)
        return {held.key: held.revision for held in map(_held, kvs)}

    async def swap(self, held: Held, value: bytes) -> Held | None:
        """Write *value* if the key is still as *held* says, its lease as it is; return what is there now."""
        key = _bytes(held.key)
        write = RequestOp(request_put=PutRequest(key=key, value=value, lease=held.life))
        request = TxnRequest(
            compare=[compare_revision(key, held.revision), _compare_value(key, held.value)],
            success=[write],
            failure=[read(key)],
        )
        with self._operation("; a change may still be under way"):
            answer = await self._cluster.call(TXN, request, idempotent=True)
        if answer.succeeded:
            return Held(held.key, value, answer.header.revision, held.life)
        return next((_held(kv) for kv in answer.responses[0].response_range.kvs), None)

    async def purge(self) -> Sequence[str]:
        """Compact at the present revision, and defragment every member that the place names.

        A member says that it has compacted only of what it was asked itself, and once for each revision. So each
        member after the first is asked at a revision of its own, which a key that is no record makes.
        """
        done = []
        barrier = _bytes(self.prefix + BARRIER)
        members = self._cluster.members
        with self._operation():
            for number, member in enumerate(members):
                if number:
                    request = TxnRequest(success=[RequestOp(request_put=PutRequest(key=barrier))])
                    await self._cluster.call(TXN, request, idempotent=True)
                revision = (await self._range(limit=1, keys_only=True)).header.revision
                await self._compact(member, revision)
                await self._defragment(member)
                done.append(f"etcd member {member.endpoint}: compacted up to revision {revision}, and defragmented")
            if len(members) > 1:
                request = RequestOp(request_delete_range=DeleteRangeRequest(key=barrier))
                await self._cluster.call(TXN, TxnRequest(success=[request]), idempotent=True)
        left = [machine for machine in await self._machines() if not machine.named]
        return [*done, *(f"{machine.words} was not defragmented: name it in the place too" for machine in left)]

    async def places(self) -> Sequence[Place]:
        """Return a snapshot of each member as it streams it, the files that can be read, and what cannot be reached."""
        machines = await self._machines()
        there = {machine.endpoint for machine in machines if machine.named}
        streams = []
        for member in self._cluster.members:
            name = f"the database of etcd member {member.endpoint}, streamed by it"
            if member.endpoint not in there:
                streams.append(Place(name, None, "the member does not answer: start it, and scrub again"))
            elif not await self._streams(member):
                streams.append(Place(name, None, "etcd streams it to users with the role root: let one of them scrub"))
            else:
                streams.append(Place(name, lambda member=member: self._snapshot(member), _PURGE_AGAIN))  # type: ignore[misc]  # a default is how a loop's variable is kept
        return [*streams, *await asyncio.to_thread(places_of, machines, self._directories)]

    def __repr__(self) -> str:
        return f"<EtcdKeys {','.join(self._target.endpoints)}{self.prefix}>"

    # One call

    @contextmanager
    def _operation(self, also: str = "") -> Iterator[None]:
        with _answering(also), self._cluster.operation():
            yield

    async def _range(self, key: bytes = b"", **options: Any) -> RangeResponse:
        request = RangeRequest(key=key or self._first, range_end=self._end, **options)
        return await self._cluster.call(RANGE, request, idempotent=True)

    async def _get(self, keys: Sequence[str], size: int, **options: Any) -> Sequence[KeyValue]:
        ours = [_bytes(key) for key in dict.fromkeys(keys) if key.startswith(self.prefix)]
        kvs: list[KeyValue] = []
        for start in range(0, len(ours), size):
            part = [read(key, **options) for key in ours[start : start + size]]
            with self._operation():
                answer = await self._cluster.call(TXN, TxnRequest(success=part), idempotent=True)
            kvs += (kv for response in answer.responses for kv in response.response_range.kvs)
        return kvs

    # One member

    async def _compact(self, member: Member, revision: int) -> None:
        request = CompactionRequest(revision=revision, physical=True)
        try:
            await self._cluster.ask(member, COMPACT, request, MAINTENANCE)
        except CallFailed as failure:
            if failure.kind is not Kind.COMPACTED:
                raise

    async def _defragment(self, member: Member) -> None:
        try:
            await self._cluster.ask(member, DEFRAGMENT, DefragmentRequest(), MAINTENANCE)
        except CallFailed as failure:
            if failure.kind is Kind.REFUSED:
                raise SourceRefused(
                    "etcd defragments for users with the role root alone: name one of them in the place,"
                    " and scrub again"
                ) from failure
            raise

    async def _machines(self) -> Sequence[Machine]:
        """Return the members of the cluster, those among them that the place names first."""
        found: dict[int, Machine] = {}
        cluster = 0
        timeout = self._target.timeout
        with self._operation():
            for member in self._cluster.members:
                try:
                    header = (await self._cluster.ask(member, STATUS, StatusRequest(), timeout)).header
                except CallFailed:
                    continue  # it is told as a member that does not answer
                cluster = header.cluster_id
                words = f"etcd member {member.endpoint}"
                found[header.member_id] = Machine(cluster, header.member_id, words, member.endpoint)
            answer = await self._cluster.call(MEMBERS, MemberListRequest(), idempotent=True)
            for each in answer.members:
                words = f"etcd member {each.name or format(each.ID, 'x')}"
                found.setdefault(each.ID, Machine(cluster or answer.header.cluster_id, each.ID, words))
        return list(found.values())

    async def _streams(self, member: Member) -> bool:
        """Whether *member* streams its database to us; who may not is told so with the first answer."""
        if not self._target.user:
            return True
        with self._operation():
            try:
                async with aclosing(self._cluster.stream(member, SNAPSHOT, SnapshotRequest(), MAINTENANCE)) as each:
                    async for _ in each:
                        break
            except CallFailed as failure:
                if failure.kind is Kind.REFUSED:
                    return False
                raise
        return True

    async def _snapshot(self, member: Member) -> AsyncIterator[bytes]:
        """Yield a member's database as it streams it; none of it is kept."""
        with self._operation():
            async with aclosing(self._cluster.stream(member, SNAPSHOT, SnapshotRequest(), MAINTENANCE)) as answers:
                async for answer in answers:
                    yield answer.blob


@contextmanager
def _answering(also: str = "") -> Iterator[None]:
    """Tell a failed call in the words of the house, and what *also* is to be said where its fate is not known."""
    try:
        yield
    except CallFailed as failure:
        if failure.kind in _REFUSED:
            raise SourceRefused(failure.reason) from failure
        if failure.kind is Kind.FULL:
            raise SourceUnavailable(f"{failure.reason}; then run this again") from failure
        lost = also if failure.kind is Kind.LOST else ""
        raise SourceUnavailable(f"{failure.reason}{lost}: {_TRY_AGAIN}") from failure


def _held(kv: KeyValue) -> Held:
    return Held(kv.key.decode(errors="surrogateescape"), kv.value, kv.mod_revision, kv.lease)


def _compare_value(key: bytes, value: bytes) -> Compare:
    return Compare(key=key, target=Compare.VALUE, result=Compare.EQUAL, value=value)


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")
