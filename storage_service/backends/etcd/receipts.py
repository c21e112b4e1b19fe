"""How a write whose answer was lost is settled: by a receipt that it leaves, and only it can leave.

A commit takes a receipt, a small key beside the names that no other commit uses meanwhile, last written at revision
r. Its transaction also compares the receipt with r and writes ``committed`` to it:

    if   receipt at r, and the guards hold
    then the changes; receipt = "committed"

When the answer is lost, a second transaction settles the first, whatever member it reaches and however late the first
may still arrive:

    if   receipt at r
    then receipt = "settled"           the first was not applied, and never will be: r is past
    else read the receipt              "committed": the first was applied, at the receipt's revision

Sent twice, the second says the same. Nobody else's writes come into it, so it decides where a read-back of the
written names could not: another writer may have replaced them, or have written the same, or the first transaction
may be applied after the reading. Receipts are used again; there are as many as there were commits at once, and those
that nothing can still arrive for are removed on closing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from strongroom.storage_service.backends.base import MAX_BATCH
from strongroom.storage_service.backends.etcd.cluster import Cluster
from strongroom.storage_service.backends.etcd.keyspace import Keyspace, compare_revision, delete, put, read
from strongroom.storage_service.backends.etcd.messages_pb2 import Compare, RequestOp, TxnRequest
from strongroom.storage_service.backends.etcd.methods import TXN
from strongroom.storage_service.errors import Fate

COMMITTED: Final = b"committed"
SETTLED: Final = b"settled"


@dataclass(slots=True)
class Receipt:
    """One receipt and what we know of it."""

    key: bytes
    revision: int = 0  # at which it was last written; 0: never
    open: bool = False  # a commit that compares it with this revision may be under way, or applied
    kept: bool = False  # a commit that expects it never written may still arrive, so that it must not be removed

    @property
    def compare(self) -> Compare:
        """What makes a commit fail once this receipt has moved on."""
        return compare_revision(self.key, self.revision)

    @property
    def signature(self) -> RequestOp:
        """What a commit writes."""
        return put(self.key, COMMITTED)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a commit; *revision* is its own where it was applied."""

    fate: Fate
    revision: int = 0


class Receipts:
    """The receipts of one backend; their keys are ``<prefix>~receipts/<random>/<number>``."""

    def __init__(self, keys: Keyspace, cluster: Cluster) -> None:
        self._prefix = keys.receipts + token_hex(8).encode() + b"/"
        self._cluster = cluster
        self._made = 0
        self._free: list[Receipt] = []

    @contextmanager
    def taken(self) -> Iterator[Receipt]:
        """Lend a receipt that nobody else has meanwhile."""
        receipt = self._free.pop() if self._free else Receipt(self._new_key())
        try:
            yield receipt
        finally:
            self._free.append(receipt)

    def replace(self, receipt: Receipt) -> None:
        """Let *receipt* be another: somebody else has removed or restored its key."""
        receipt.key, receipt.revision, receipt.open, receipt.kept = self._new_key(), 0, False, False

    async def settle(self, receipt: Receipt, *, under_way: bool = True, deadline: float | None = None) -> Settled:
        """Find out what became of the commit that last took *receipt*, and see to it that this stays so.

        Args:
            receipt: an open one.
            under_way: whether the commit may still arrive; if not, reading is enough, and works without space.
            deadline: when to give up, as of `Cluster.call`.

        Raises:
            CallFailed: etcd cannot be asked now; the receipt stays open.
        """
        request = TxnRequest(
            compare=[receipt.compare],
            success=[put(receipt.key, SETTLED) if under_way else read(receipt.key)],
            failure=[read(receipt.key)],
        )
        receipt.kept = receipt.kept or (under_way and receipt.revision == 0)
        answer = await self._cluster.call(TXN, request, idempotent=True, deadline=deadline)
        receipt.open = False
        if answer.succeeded:
            receipt.revision = answer.header.revision if under_way else receipt.revision
            return Settled(Fate.NOT_APPLIED)
        kvs = answer.responses[0].response_range.kvs
        if not kvs:
            self.replace(receipt)
            return Settled(Fate.UNKNOWN)
        receipt.revision = kvs[0].mod_revision
        if kvs[0].value == COMMITTED:
            return Settled(Fate.APPLIED, receipt.revision)
        return Settled(Fate.NOT_APPLIED)

    async def remove(self) -> None:
        """Remove the receipts that nothing can still arrive for.

        Raises:
            CallFailed: it could not be done; a few small keys stay behind.
        """
        keys = [receipt.key for receipt in self._free if receipt.revision and not receipt.open and not receipt.kept]
        for start in range(0, len(keys), MAX_BATCH):
            request = TxnRequest(success=[delete(key) for key in keys[start : start + MAX_BATCH]])
            await self._cluster.call(TXN, request, idempotent=True)

    def _new_key(self) -> bytes:
        self._made += 1
        return self._prefix + str(self._made).encode()
