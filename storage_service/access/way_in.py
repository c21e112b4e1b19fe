"""The last way in: whether somebody is left who may mend the rules of access, whoever changes them or a group."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from strongroom.models import names
from strongroom.models.access import ADMINISTRATORS, EVERYBODY, Right, Rule
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.directory import Snapshot
from strongroom.storage_service.access.rules import Network, Rules

END: Final = datetime.max.replace(tzinfo=UTC)  # when every rule that expires has


def askers_of(known: Snapshot, administrators: Iterable[str]) -> list[Principal]:
    """Return the *administrators* as rules know them, with their groups."""
    return [Principal(each, groups=known.groups.get(each, frozenset()), ruled=True) for each in sorted(administrators)]


def can_mend(rules: Mapping[str, Rule], askers: Sequence[Principal], moment: datetime) -> bool:
    """Whether one of *askers* may change the rule and the group of administrators, and every rule that denies access.

    Somewhere, that is: over the socket, or from one of the networks that rules allow it from.
    """
    subjects = {EVERYBODY}.union(*({asker.id, *(f"group:{group}" for group in asker.groups)} for asker in askers))
    relevant = {
        name: rule
        for name, rule in rules.items()
        if Right.ACCESS in rule.actions and not subjects.isdisjoint(rule.subjects)
    }
    compiled = Rules(relevant)
    wanted = [names.RULES + ADMINISTRATORS, names.GROUPS + ADMINISTRATORS]
    wanted += [names.RULES + name for name, rule in relevant.items() if rule.effect == "deny"]
    allowing = [network for rule in relevant.values() if rule.effect == "allow" for network in rule.networks]
    addresses: list[str | None] = [None, *dict.fromkeys(end for network in allowing for end in _ends(network))]
    return any(
        all(compiled.decide(replace(asker, address=address), (Right.ACCESS,), name, moment).allowed for name in wanted)
        for asker in askers
        for address in addresses
    )


def _ends(network: str) -> Iterator[str]:
    """Yield the first and the last address of *network*."""
    known = Network.of(network)
    size = 32 if known.version == 4 else 128
    kind = ipaddress.IPv4Address if known.version == 4 else ipaddress.IPv6Address
    yield str(kind(known.first))
    yield str(kind(known.first | (known.mask ^ ((1 << size) - 1))))
