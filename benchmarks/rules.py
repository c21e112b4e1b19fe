"""What rules cost: a decision and a listing in a large house, and compiling the rules anew when one changes.

All of it runs in this process, as it does in a worker of the service: no I/O is part of a decision.
"""

import gc
import random
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from strongroom.models.access import Right, Rule
from strongroom.storage_service.access.rules import Rules

PRINCIPALS: Final = 1000
RULES: Final = 10_000
GROUPS: Final = 100
NAMES: Final = 10_000  # in a listing
DECISIONS: Final = 20_000
MEMBERSHIPS: Final = 5  # groups of one principal
CONTAINERS: Final = 200
SEED: Final = 12

_RIGHTS: Final = (Right.READ, Right.LIST, Right.CREATE, Right.MODIFY, Right.DELETE)
_NOW: Final = datetime(2026, 11, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Someone:
    """Who asks."""

    id: str
    groups: frozenset[str]
    namespace: str
    address: str | None = "192.0.2.7"


@dataclass(frozen=True, slots=True)
class Ruled:
    """One round, in seconds."""

    median: float  # of a decision
    slow: float  # that 99 of 100 decisions are not slower than
    listing: float
    changed: float  # that one rule takes which is another
    compiled: float


def house(rules: int = RULES) -> tuple[dict[str, Rule], list[Someone]]:
    """Return rules as a house of that size has them, and its principals."""
    chance = random.Random(SEED)
    people = [
        Someone(
            f"user:u{number}",
            frozenset(f"g{chance.randrange(GROUPS)}" for _ in range(MEMBERSHIPS)),
            f"user:u{number}",
        )
        for number in range(PRINCIPALS)
    ]
    everybody = {
        "own": _rule(chance, ["*"], ["secrets/users/{principal}/**"]),
        "never": _rule(chance, ["*"], ["secrets/*/root"], effect="deny"),
    }
    made = (_made(chance) for _ in range(rules - len(everybody)))
    return everybody | {f"r{number}": rule for number, rule in enumerate(made)}, people


def measure() -> Ruled:
    """Measure one round."""
    chance = random.Random(SEED + 1)
    described, people = house()
    begun = time.perf_counter()
    rules = Rules(described)
    compiled = time.perf_counter() - begun
    asked = [
        (chance.choice(people), rights, _name(chance))
        for rights in ((right,) for right in chance.choices(_RIGHTS, k=DECISIONS))
    ]
    took = []
    for someone, rights, name in asked:
        begun = time.perf_counter()
        rules.decide(someone, rights, name, _NOW)
        took.append(time.perf_counter() - begun)
    names = [f"secrets/c{number % CONTAINERS}/h{number}" for number in range(NAMES)]
    names.sort()
    listings = []
    gc.collect()
    for someone in people[:5]:
        begun = time.perf_counter()
        rules.visible(someone, names, _NOW)
        listings.append(time.perf_counter() - begun)
    changes = []
    for name in chance.sample(sorted(described), 20):
        begun = time.perf_counter()
        rules.changed({name: described["own"]})
        changes.append(time.perf_counter() - begun)
    took.sort()
    return Ruled(
        median=took[len(took) // 2],
        slow=took[len(took) * 99 // 100],
        listing=statistics.median(listings),
        changed=statistics.median(changes),
        compiled=compiled,
    )


def _made(chance: random.Random) -> Rule:
    if chance.random() < 0.7:
        subjects = [f"group:g{chance.randrange(GROUPS)}"]
    else:
        subjects = [f"user:u{chance.randrange(PRINCIPALS)}"]
    container = f"secrets/c{chance.randrange(CONTAINERS)}"
    pattern = chance.choice((f"{container}/**", f"{container}/*", f"{container}/h{chance.randrange(NAMES)}"))
    effect = "deny" if chance.random() < 0.05 else "allow"
    return _rule(chance, subjects, [pattern, container + "/"], effect=effect)


def _rule(chance: random.Random, subjects: list[str], names: list[str], effect: str = "allow") -> Rule:
    return Rule(
        effect="deny" if effect == "deny" else "allow",
        subjects=tuple(subjects),
        actions=tuple(sorted({chance.choice(_RIGHTS) for _ in range(3)})),
        names=tuple(names),
        networks=("192.0.2.0/24", "10.0.0.0/8") if chance.random() < 0.1 else (),
    )


def _name(chance: random.Random) -> str:
    return f"secrets/c{chance.randrange(CONTAINERS)}/h{chance.randrange(NAMES)}"
