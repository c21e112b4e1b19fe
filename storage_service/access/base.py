"""Who asks, for what, and the answer: the words every authorizer shares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from strongroom.storage_service.wire import Verb


class Action(StrEnum):
    """What can be done to a name; names that end in a slash are containers."""

    GET = "get"
    LIST = "list"
    PUT = "put"  # both of the next two
    CREATE = "create"  # a put that never replaces
    MODIFY = "modify"  # a put that always does
    DELETE = "delete"

    @property
    def word(self) -> Verb:
        """What reaches and audit lines say of it: they know one way to put."""
        return _WORDS[self]


_WORDS: Final[Mapping[Action, Verb]] = {
    Action.GET: "get",
    Action.LIST: "list",
    Action.PUT: "put",
    Action.CREATE: "put",
    Action.MODIFY: "put",
    Action.DELETE: "delete",
}
ALL_ACTIONS = frozenset((Action.GET, Action.LIST, Action.PUT, Action.DELETE))
_PUTS = frozenset((Action.CREATE, Action.MODIFY))
_BLIND = frozenset((Action.LIST, Action.CREATE, Action.DELETE))  # what can be done to what is not seen


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: ``apikey:<id>``, ``service:<uid>``, ``user:<name>`` …, and how far its credentials reach at most.

    *paths* are SimplePathAuthz entries; *actions* what it may do on them; what lies below *unseen* it lists,
    makes and removes, and neither reads nor replaces. Trusted: made by authenticators alone.
    Whoever is *ruled* reaches nothing but what rules allow; whatever they deny is denied to everybody in *groups*.
    """

    id: str
    paths: tuple[str, ...] = ("/",)
    actions: frozenset[Action] = ALL_ACTIONS
    groups: frozenset[str] = frozenset()
    ruled: bool = False
    exempt: bool = False  # from rules: the service's own key, and its proxy's
    unseen: tuple[str, ...] = ()  # paths
    credential: str | None = None  # which of its credentials it has shown
    address: str | None = None  # of the client, on the network
    since: float | None = None  # when it logged in, in seconds since 1970, where it shows a token

    def may(self, action: Action) -> bool:
        """Whether the credentials are for *action* at all."""
        return action in self.actions or (action in _PUTS and Action.PUT in self.actions)

    def is_blind(self, action: Action) -> bool:
        """Whether it may not do *action* to what it does not see."""
        return bool(self.unseen) and action not in _BLIND

    def at(self, address: str | None) -> "Principal":
        """Return the principal as it comes from *address*."""
        # PERF: dataclasses.replace takes ten times as long
        return Principal(
            self.id,
            self.paths,
            self.actions,
            self.groups,
            self.ruled,
            self.exempt,
            self.unseen,
            self.credential,
            address,
            self.since,
        )

    @property
    def name(self) -> str:
        """The part after the kind, as Custodia's ``remote_user``."""
        return self.id.partition(":")[2]

    @property
    def is_whole(self) -> bool:
        """Whether the credentials have no limit of their own."""
        return not self.ruled and "/" in self.paths and self.actions >= ALL_ACTIONS

    @property
    def namespace(self) -> str:
        """The name of the container that is this principal's own: no two principals have one of the same name.

        That of an API key is its id, as in Custodia; that of others bears their kind, which no API id can.
        """
        kind, _, name = self.id.partition(":")
        return name if kind == "apikey" else self.id


class Decider(Protocol):
    """One opinion on an act; Custodia's rule over all of them: any False denies, at least one True is needed."""

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return True (allowed), False (denied) or None (no opinion); never raises for a denial."""

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether `decide` says False of every name that begins with *below* and goes on; "" stands for all names."""

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return the containers, with their slashes, at which what it allows *principal* may begin.

        One that it allows, though not what it lies in, is among them; one that lies in another need not be.
        """

    def own_container(self, principal: Principal) -> str | None:
        """Return the container that it gives *principal* for its own, if it does (Custodia's default namespace)."""
