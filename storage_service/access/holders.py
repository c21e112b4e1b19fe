"""Whose a credential is that is known by itself: a certificate by its names, a process by its user."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from strongroom.models import names
from strongroom.models.access import Credential, PrincipalRecord, told
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.directory import Directory, Snapshot
from strongroom.storage_service.errors import Denied

KINDS: Final = frozenset(("certificate", "process"))  # of which no two principals have the same

_OF: Final = {names.USERS: "user", names.SERVICES: "service"}


class Holders:
    """Who holds which of them. Trusted: whoever shows one is looked up here, and is whom the record says."""

    def __init__(self, directory: Directory, now: Callable[[], float] = time.time) -> None:
        """Take the *directory* of all records of access, and the clock."""
        self._directory = directory
        self._now = now
        self._snapshot: Snapshot | None = None
        self._held: dict[tuple[str, str], tuple[str, Credential]] = {}

    async def holder(self, kind: str, shown: Iterable[str]) -> Principal | None:
        """Return the principal whose credential of that *kind* is one of those *shown*, None where it is nobody's.

        Raises:
            Denied: they are credentials of several principals: which of them is meant is not guessed.
            Locked, Uninitialized, Unavailable: it cannot be told now.
        """
        snapshot = await self._directory.current()
        if snapshot is not self._snapshot:
            self._snapshot, self._held = snapshot, _held_in(snapshot)
        now = told(datetime.fromtimestamp(self._now(), UTC))
        found = [
            (name, credential)
            for name, credential in (self._held.get((kind, each), ("", None)) for each in shown)
            if credential is not None and (credential.expires is None or credential.expires > now)
        ]
        if len({name for name, _ in found}) > 1:
            raise Denied("the credentials are those of several principals")
        if not found:
            return None
        name, credential = found[0]
        return Principal(name, groups=snapshot.groups.get(name, frozenset()), ruled=True, credential=credential.id)


def _held_in(snapshot: Snapshot) -> dict[tuple[str, str], tuple[str, Credential]]:
    held = {}
    for place, record in snapshot.records.items():
        prefix, _, name = place.rpartition("/")
        kind = _OF.get(f"{prefix}/")
        if kind is None or not isinstance(record, PrincipalRecord) or record.disabled:
            continue
        for each in record.credentials:
            if each.kind in KINDS:
                held[each.kind, each.data] = f"{kind}:{name}", each
    return held
