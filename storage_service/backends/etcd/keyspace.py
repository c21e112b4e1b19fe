"""Names as etcd's keys, and a batch of changes as one transaction. No I/O: messages are made and read here."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_BATCH,
    PRESENT,
    Change,
    Delete,
    Put,
    Vacant,
    failed_guards,
)
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind
from strongroom.storage_service.backends.etcd.messages_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)

_PAST_NAMES: Final = b"{"  # the byte after "z": no name begins with it or with what follows it
RECEIPTS: Final = b"~receipts/"  # beside the names, and past the end of every range of them


class Keyspace:
    """The keys under one prefix: ``<prefix><name>``, and receipts under ``<prefix>~receipts/``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.receipts = self._prefix + RECEIPTS

    @property
    def all(self) -> tuple[bytes, bytes]:
        """The range (first key, end) of everything that is ours."""
        return self._prefix, _end(self._prefix)

    def key(self, name: str) -> bytes:
        """Return the key that *name* is kept under."""
        return self._prefix + name.encode()

    def name(self, key: bytes) -> str:
        """Return the name kept under *key*.

        Raises:
            CallFailed: somebody else put a key under our prefix that is no name.
        """
        try:
            return key.removeprefix(self._prefix).decode("ascii")
        except UnicodeDecodeError:
            raise CallFailed(Kind.REFUSED, "a key under the prefix in etcd is not a valid name; remove it") from None

    def range(self, prefix: str) -> tuple[bytes, bytes]:
        """Return the range (first key, end) of the names that begin with *prefix*."""
        first = self.key(prefix)
        return first, _end(first) if prefix else self._prefix + _PAST_NAMES


class Batch:
    """Changes as the parts of one transaction: the guards as compares, the writes, and a probe for each guard.

    etcd answers a failed transaction with what its failure branch reads; the probes stand there, so that one round
    trip tells exactly which guards did not hold. Each part has at most 128 operations, etcd's ``--max-txn-ops``.
    """

    def __init__(self, changes: Sequence[Change], keys: Keyspace) -> None:
        self._guards = [change for change in changes if isinstance(change, Vacant) or change.expected is not None]
        self._compares = [_compare(guard, keys) for guard in self._guards]
        self._probes = [_probe(guard, keys) for guard in self._guards]
        self._writes = [_write(change, keys) for change in changes if isinstance(change, Put | Delete)]
        self.has_puts = any(isinstance(change, Put) for change in changes)
        self.has_vacancies = any(isinstance(change, Vacant) for change in changes)

    @property
    def only_guards(self) -> bool:
        """Whether the batch changes nothing."""
        return not self._writes

    @property
    def has_room(self) -> bool:
        """Whether one compare and one put more stay within etcd's limit."""
        return max(len(self._guards), len(self._writes)) < MAX_BATCH

    def request(self, compares: Iterable[Compare] = (), writes: Iterable[RequestOp] = ()) -> TxnRequest:
        """Return the transaction, with *compares* and *writes* of somebody else in it."""
        return TxnRequest(compare=[*self._compares, *compares], success=[*self._writes, *writes], failure=self._probes)

    def survey(self) -> TxnRequest:
        """Return a transaction that only reads what `failed` judges."""
        return TxnRequest(success=self._probes)

    def failed(self, answer: TxnResponse) -> list[Change]:
        """Return the guards that do not hold, by what the probes in *answer* read."""
        occupied: dict[str, bool] = {}
        revisions: dict[str, int] = {}
        for guard, response in zip(self._guards, answer.responses, strict=True):
            kvs = response.response_range.kvs
            if isinstance(guard, Vacant):
                occupied[guard.prefix] = bool(kvs)
            else:
                revisions[guard.name] = kvs[0].mod_revision if kvs else ABSENT
        return failed_guards(self._guards, revisions.__getitem__, occupied.__getitem__)


def compare_revision(key: bytes, revision: int) -> Compare:
    """Return the compare that holds while *key* is at *revision* (0: it does not exist)."""
    return Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=revision)


def never(key: bytes) -> Compare:
    """Return a compare that cannot hold: nothing is created before revision 0."""
    return Compare(key=key, target=Compare.CREATE, result=Compare.LESS, create_revision=0)


def put(key: bytes, value: bytes) -> RequestOp:
    """Return the operation that writes *value*."""
    return RequestOp(request_put=PutRequest(key=key, value=value))


def delete(key: bytes) -> RequestOp:
    """Return the operation that removes *key*; that it is not there is no error."""
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key))


def read(key: bytes, **options: Any) -> RequestOp:
    """Return the operation that reads *key*, or with ``range_end`` a range; *options* are those of a RangeRequest."""
    return RequestOp(request_range=RangeRequest(key=key, **options))


def _end(prefix: bytes) -> bytes:
    """Return the first key past all that begin with *prefix*, whose last byte is ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _inside(prefix: str, keys: Keyspace) -> tuple[bytes, bytes]:
    """Return the range of names that begin with *prefix* but are not equal to it."""
    first, end = keys.range(prefix)
    return first + b"\0", end


def _compare(guard: Change, keys: Keyspace) -> Compare:
    if isinstance(guard, Vacant):
        first, end = _inside(guard.prefix, keys)
        # Over a range, a compare holds when it holds for every key there; no key was created at revision 0.
        return Compare(key=first, range_end=end, target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)
    key = keys.key(guard.name)
    if guard.expected == PRESENT:
        return Compare(key=key, target=Compare.CREATE, result=Compare.GREATER, create_revision=0)
    return compare_revision(key, guard.expected or ABSENT)


def _probe(guard: Change, keys: Keyspace) -> RequestOp:
    if isinstance(guard, Vacant):
        first, end = _inside(guard.prefix, keys)
        return read(first, range_end=end, keys_only=True, limit=1)
    return read(keys.key(guard.name), keys_only=True)


def _write(change: Put | Delete, keys: Keyspace) -> RequestOp:
    if isinstance(change, Put):
        return put(keys.key(change.name), change.value)
    return delete(keys.key(change.name))
