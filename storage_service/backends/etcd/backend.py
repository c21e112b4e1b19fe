"""An etcd v3 cluster as a backend."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Self
from urllib.parse import SplitResult

from cryptography import x509

from strongroom.storage_service.backends.base import (
    MAX_BATCH,
    MAX_PAGE,
    Change,
    Conflict,
    Entry,
    Page,
    Snapshot,
    check_batch,
    check_limit,
    check_names,
    not_applied,
)
from strongroom.storage_service.backends.etcd.cluster import Cluster, Member
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind
from strongroom.storage_service.backends.etcd.keyspace import Batch, Keyspace, never, put, read
from strongroom.storage_service.backends.etcd.messages_pb2 import (
    KeyValue,
    RangeRequest,
    StatusRequest,
    TxnRequest,
    TxnResponse,
)
from strongroom.storage_service.backends.etcd.methods import RANGE, STATUS, TXN, A, Method, Q
from strongroom.storage_service.backends.etcd.receipts import Receipt, Receipts, Settled
from strongroom.storage_service.backends.etcd.target import Target, parse
from strongroom.storage_service.errors import Fate, TooLarge
from strongroom.storage_service.wire import MAX_STORED

LIMITED_PART: Final = 16  # values in one question where their size is limited, however little room is left
COPIED: Final = 64  # values in one question of a snapshot: each may be large
PATIENCE: Final = 1.0  # seconds for a member to say whether it has a leader
FAREWELL: Final = 1.0  # seconds for removing our receipts on closing


class EtcdBackend:
    """Names under one prefix of an etcd cluster; the cluster is untrusted, as every backend is.

    Reads are linearizable. A write whose answer is lost is settled by its receipt (module ``receipts``): it is then
    answered as applied, or done again, and only a cluster that cannot be asked leaves a fate unknown. A batch of
    exactly 128 writes or guards fills etcd's limit and goes without a receipt.

    Each operation ends within the target's timeout, a commit that must be settled within twice that.
    """

    max_batch: Final = MAX_BATCH

    def __init__(self, target: Target) -> None:
        self._target = target
        self._keys = Keyspace(target.prefix)
        self._cluster = Cluster(target)
        self._receipts = Receipts(self._keys, self._cluster)

    @classmethod
    def from_url(cls, url: SplitResult, options: Mapping[str, str]) -> Self:
        """Make the backend that *url*, without its query, and *options* name; see `target.parse`.

        Raises:
            ConfigurationError: they cannot be understood.
        """
        return cls(parse(url, options))

    def __repr__(self) -> str:
        return f"<EtcdBackend {','.join(self._target.endpoints)}{self._target.prefix}>"

    async def open(self) -> None:
        """Connect, log in, and see that all keys under the prefix may be read and written.

        Raises:
            Unavailable: no member answers.
            ConfigurationError: one does, but does not accept our certificate, user, password or prefix.
        """
        try:
            await self._cluster.open()
            with self._cluster.operation():
                await self._probe()
        except BaseException as error:
            await self._cluster.drain()
            await self._cluster.close()
            if isinstance(error, CallFailed):
                raise error.startup_answer() from error
            raise

    async def close(self) -> None:
        """Let operations under way end, remove our receipts where possible, and disconnect."""
        if await self._cluster.drain():
            with suppress(CallFailed, TimeoutError):  # what stays behind is small, and harms nobody
                async with asyncio.timeout(FAREWELL):
                    await self._receipts.remove()
            await self._cluster.close()

    async def measure(self) -> Mapping[tuple[str, str], float]:
        """Return how many members say that they have a leader, how many do not, and when our certificate expires."""
        answers = await asyncio.gather(*map(self._has_leader, self._cluster.members))
        told = {
            ("etcd_members", "healthy"): float(sum(answers)),
            ("etcd_members", "unhealthy"): float(len(answers) - sum(answers)),
        }
        if self._target.cert is not None:
            with suppress(OSError, ValueError):  # the next start says what is wrong with it
                text = await asyncio.to_thread(self._target.cert.read_bytes)
                expiry = x509.load_pem_x509_certificate(text).not_valid_after_utc
                told["etcd_certificate_expiry_timestamp_seconds", ""] = expiry.timestamp()
        return told

    async def _has_leader(self, member: Member) -> bool:
        try:
            return bool((await self._cluster.ask(member, STATUS, StatusRequest(), PATIENCE)).leader)
        except CallFailed:
            return False

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*."""
        with self._answering():
            return await self._cluster.get(self._keys.key(name))

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist, all as of one moment.

        Raises:
            TooLarge: they are more than *limit* bytes together; no more than a few values past it were held.
        """
        check_names(names)
        keys = [self._keys.key(name) for name in dict.fromkeys(names)]
        with self._answering():
            try:
                entries = await self._get_keys(keys, limit)
            except CallFailed as failure:
                if failure.kind is not Kind.COMPACTED:
                    raise
                entries = await self._get_keys(keys, limit)  # etcd forgot that moment meanwhile; another is as good
            return entries

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names that begin with *prefix*; values stay where they are."""
        check_limit(limit)
        first, end = self._keys.range(prefix)
        if after is not None:
            first = max(first, self._keys.key(after) + b"\0")
        with self._answering():
            if first >= end:
                return Page((), more=False)
            answer = await self._read(RANGE, RangeRequest(key=first, range_end=end, limit=limit, keys_only=True))
            return Page(tuple(self._keys.name(kv.key) for kv in answer.kvs), more=answer.more)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, in one transaction.

        Raises:
            Conflict: a guard did not hold; nothing was applied.
            Unavailable: with its fate.
            TooLarge: the batch is over etcd's limit for one request (1.5 MiB, unless configured otherwise).
        """
        check_batch(changes)
        batch = Batch(changes, self._keys)
        with self._answering():
            deadline = self._cluster.deadline()
            if batch.has_vacancies:
                # Comparing a range makes etcd read every value in it; a look at one key spares it that.
                _judge(batch, await self._read(TXN, batch.survey(), deadline))
            if batch.only_guards:
                return _revision(batch, await self._read(TXN, batch.request(), deadline))
            if batch.has_room:
                with self._receipts.taken() as receipt:
                    try:
                        return await self._commit(batch, receipt, deadline)
                    except CallFailed as failure:
                        # A store without space takes deletes, but no receipt for them.
                        if failure.kind is not Kind.FULL or failure.fate is not Fate.NOT_APPLIED or batch.has_puts:
                            raise
            answer = await self._cluster.call(TXN, batch.request(), idempotent=False, deadline=deadline)
            return _revision(batch, answer)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Snapshot, None]:
        """Hold the revision that the cluster is at now."""
        was_open = self._cluster.is_open
        if not was_open:
            await self.open()
        try:
            first, end = self._keys.range("")
            with self._answering():
                answer = await self._read(RANGE, RangeRequest(key=first, range_end=end, count_only=True))
            yield _Moment(self, answer.header.revision, answer.count)
        finally:
            if not was_open:
                await self.close()

    async def at(self, revision: int, prefix: str, after: str | None, limit: int) -> Sequence[tuple[str, bytes]]:
        """Return the next names, and their values, that begin with *prefix* and come after *after*, at *revision*.

        Raises:
            Unavailable: etcd was told to forget that revision meanwhile, or does not answer.
        """
        first, end = self._keys.range(prefix)
        if after is not None:
            first = self._keys.key(after) + b"\0"
        with self._answering():
            try:
                request = RangeRequest(key=first, range_end=end, limit=limit, revision=revision)
                answer = await self._read(RANGE, request)
            except CallFailed as failure:
                if failure.kind is not Kind.COMPACTED:
                    raise
                reason = "etcd compacted the revision that is being read; let --auto-compaction-retention be longer"
                raise not_applied(reason) from failure
            return [(self._keys.name(kv.key), kv.value) for kv in answer.kvs]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Be one operation of the cluster, whose failure is told in the words of the house."""
        try:
            with self._cluster.operation():
                yield
        except CallFailed as failure:
            raise failure.answer() from failure

    async def _probe(self) -> None:
        """Ask for a transaction that never writes, but for which etcd demands all permissions that we need."""
        first, end = self._keys.all
        request = TxnRequest(
            compare=[never(first)],
            success=[put(first, b"")],
            failure=[read(first, range_end=end, keys_only=True, limit=1)],
        )
        try:
            await self._read(TXN, request)
        except CallFailed as failure:
            if failure.kind is not Kind.FULL:  # reading and deleting go on
                raise

    async def _read(self, method: Method[Q, A], request: Q, deadline: float | None = None) -> A:
        return await self._cluster.call(method, request, idempotent=True, deadline=deadline)

    async def _get_keys(self, keys: Sequence[bytes], limit: int | None) -> Mapping[str, Entry]:
        """Return what is stored under *keys*, part by part, all as of the moment of the first.

        Raises:
            CallFailed: that moment was compacted meanwhile, or etcd does not answer.
            TooLarge: the values are more than *limit* bytes together.
        """
        entries: dict[str, Entry] = {}
        revision = start = size = 0  # revision 0: the latest
        while start < len(keys):
            # The next values could all be as large as one may be: what is asked for then fits, or is not much.
            room = MAX_BATCH if limit is None else min(MAX_BATCH, max(LIMITED_PART, (limit - size) // MAX_STORED))
            part = [read(key, revision=revision) for key in keys[start : start + room]]
            answer = await self._read(TXN, TxnRequest(success=part))
            revision = revision or answer.header.revision
            for response in answer.responses:
                for kv in response.response_range.kvs:
                    entry = entries[self._keys.name(kv.key)] = _entry(kv)
                    size += len(entry.value)
            if limit is not None and size > limit:
                raise TooLarge("the values together are larger than one read may be")
            start += len(part)
        return entries

    async def _commit(self, batch: Batch, receipt: Receipt, deadline: float) -> int:
        """Commit *batch* with *receipt*; a lost write is settled, and done again if it was not applied.

        Raises:
            Conflict: a guard did not hold.
            CallFailed: with the batch's fate.
        """
        while True:
            if receipt.open:
                await self._receipts.settle(receipt, deadline=deadline)
            receipt.open = True
            request = batch.request([receipt.compare], [receipt.signature])
            try:
                answer = await self._cluster.call(TXN, request, idempotent=False, deadline=deadline)
            except CallFailed as failure:
                settled = await self._settle(receipt, failure)
                if settled.fate is Fate.APPLIED:
                    return settled.revision
                done_again = failure.kind is Kind.LOST and settled.fate is Fate.NOT_APPLIED
                if not done_again or self._cluster.time() >= deadline:
                    failure.fate = settled.fate
                    raise
                continue
            receipt.open = False
            if answer.succeeded:
                receipt.revision = answer.header.revision
                return receipt.revision
            _judge(batch, answer)
            self._receipts.replace(receipt)  # all guards hold: what did not is our receipt, which somebody removed
            if self._cluster.time() >= deadline:
                raise CallFailed(Kind.NOT_DONE, "our receipts in etcd are removed as fast as they are written")

    async def _settle(self, receipt: Receipt, failure: CallFailed) -> Settled:
        """Return what became of the commit that took *receipt* and ended in *failure*."""
        if failure.fate is Fate.NOT_APPLIED:
            receipt.open = False
            return Settled(Fate.NOT_APPLIED)
        try:
            return await self._receipts.settle(receipt, under_way=failure.kind is Kind.LOST)
        except CallFailed:
            return Settled(Fate.UNKNOWN)


class _Moment:
    """One revision of the cluster."""

    def __init__(self, backend: EtcdBackend, revision: int, count: int) -> None:
        self._backend = backend
        self.revision = revision
        self.count = count

    async def get(self, name: str) -> bytes | None:
        """Return what was stored under *name*."""
        found = await self._backend.at(self.revision, name, None, 1)
        return found[0][1] if found and found[0][0] == name else None

    async def pages(self) -> AsyncGenerator[Sequence[tuple[str, bytes]], None]:
        """Yield all names with their values, some at once."""
        after: str | None = None
        while page := await self._backend.at(self.revision, "", after, COPIED):
            yield page
            after = page[-1][0]


def _entry(kv: KeyValue) -> Entry:
    return Entry(kv.value, kv.mod_revision)


def _judge(batch: Batch, answer: TxnResponse) -> None:
    """Raise Conflict if the probes in *answer* show that a guard of *batch* does not hold."""
    if failed := batch.failed(answer):
        raise Conflict(failed)


def _revision(batch: Batch, answer: TxnResponse) -> int:
    """Return the revision of a transaction without a receipt, or raise Conflict."""
    if not answer.succeeded:
        raise Conflict(batch.failed(answer))
    return answer.header.revision
