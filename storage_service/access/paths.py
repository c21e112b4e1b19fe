"""Custodia's two authorizers over the secrets tree, and the reach that every credential has of itself.

A name's path is the name with a slash before it: ``/secrets/hosts/10.0.0.7``; ``/`` is the ping. Custodia's
authorizers speak of the secrets tree and the ping alone, because that is all that Custodia serves; what lies outside
(plain records, the service's own) is within a credential's reach or not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from strongroom.models.names import SECRETS
from strongroom.storage_service.access.base import Action, Decider, Principal


def matches(entries: Iterable[str], path: str) -> bool:
    """Whether SimplePathAuthz's *entries* cover *path* (semantics of Custodia 0.6.0).

    ``/x`` covers /x and all below it; ``/x/`` exactly /x/; ``/x.`` exactly /x (so ``/.`` is the ping alone);
    ``/`` covers everything.
    """
    for entry in entries:
        if entry == "/":
            return True
        if entry.endswith("."):
            if path == entry[:-1]:
                return True
        elif path == entry or (not entry.endswith("/") and path.startswith(entry + "/")):
            return True
    return False


def covers(entries: Iterable[str], wanted: str) -> bool:
    """Whether all that the entry *wanted* covers is covered by one of *entries*.

    An entry for exactly one path covers that entry alone, never the tree of the same name.
    """
    bare = wanted[:-1] if wanted.endswith((".", "/")) else wanted
    return any(
        entry in ("/", wanted) or (not entry.endswith((".", "/")) and (bare + "/").startswith(entry + "/"))
        for entry in entries
    )


def meets(entries: Iterable[str], below: str) -> bool:
    """Whether one of *entries* covers a path that begins with *below*, which ends in a slash, and goes on."""
    for entry in entries:
        if entry == "/":
            return True
        exact = entry.removesuffix(".")
        if exact.startswith(below) and exact != below:
            return True
        if not entry.endswith((".", "/")) and below.startswith(entry + "/"):
            return True
    return False


def containers(entries: Iterable[str]) -> list[str]:
    """Return the containers that *entries* name: an entry for exactly a secret names none, nor does that for all."""
    return [entry.strip("/") + "/" for entry in entries if entry != "/" and not entry.endswith(".")]


class Reach:
    """The limits that a credential carries itself: outside them nothing is allowed, whatever else is said."""

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return False outside the credential's paths and actions; inside, True except for secrets (None)."""
        if name == "":
            return None  # the ping reveals nothing, and every credential may be tried on it
        if not principal.may(action) or not matches(principal.paths, "/" + name):
            return False
        if principal.is_blind(action) and matches(principal.unseen, "/" + name):
            return False
        return None if principal.ruled or name.startswith(SECRETS) else True

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether the credential may not do the action, or has no path there."""
        blind = principal.is_blind(action) and matches(principal.unseen, "/" + below.rstrip("/"))
        return blind or not principal.may(action) or not meets(principal.paths, "/" + below)

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return the containers that the credential's paths name."""
        return containers(principal.paths)

    def own_container(self, principal: Principal) -> str | None:
        """Return None: it gives nobody one."""
        del principal
        return None


class WholeReach:
    """Refuses every credential that does not reach everything: for acts that would let it reach further.

    Of who is ruled it has no opinion: for such acts there are rights that nothing else includes.
    """

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return False for a credential with any limit of its own; no opinion on the others."""
        del action, name
        return None if principal.is_whole or principal.ruled else False

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether it refuses the credential, for it asks for nothing else."""
        return self.decide(principal, action, below) is False

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return none: where what it allows begins, others say."""
        del principal
        return ()

    def own_container(self, principal: Principal) -> str | None:
        """Return None: it gives nobody one."""
        del principal
        return None


class WholeReachAlone(WholeReach):
    """Allows every credential that reaches everything, and refuses the others."""

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return whether the credential has no limit of its own."""
        del action, name
        return principal.is_whole


class Itself:
    """Allows what somebody does for himself, or as a group's manager; it stands beside who may deny it.

    Whoever puts it into a door has found out that the act is one of these.
    """

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return True."""
        del principal, action, name
        return True

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Return False: it refuses nothing."""
        del principal, action, below
        return False

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return none: it is asked about single names."""
        del principal
        return ()

    def own_container(self, principal: Principal) -> str | None:
        """Return None: it gives nobody one."""
        del principal
        return None


@dataclass(frozen=True, slots=True)
class SimplePathAuthz:
    """Allows the listed paths to whoever is authenticated; has no opinion on the rest.

    Those for whom rules decide are silent to it but where *principals* names them (``user:ann``).
    """

    paths: tuple[str, ...]
    principals: frozenset[str] = frozenset()

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Return what *options* describe: ``paths`` and ``principals``, parted by spaces."""
        return cls(tuple(options.get("paths", "").split()), frozenset(options.get("principals", "").split()))

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return True where an entry covers the name's path."""
        del action  # the path alone decides
        if principal.ruled and principal.id not in self.principals:
            return None
        return True if matches(self.paths, "/" + name) else None

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Return False: it refuses nothing."""
        del principal, action, below
        return False

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return the containers that the listed paths name."""
        return () if principal.ruled and principal.id not in self.principals else containers(self.paths)

    def own_container(self, principal: Principal) -> str | None:
        """Return None: it gives nobody one."""
        del principal
        return None


@dataclass(frozen=True, slots=True)
class UserNameSpace:
    """Gives each principal the one container below *path* that is its `namespace`, and refuses it every other."""

    path: str = "/"

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Return what *options* describe: ``path``."""
        return cls(options.get("path", "/"))

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return None outside *path*, True in the principal's own container, False in any other."""
        del action
        path = "/" + name
        root = self.path.rstrip("/")
        if path != root and not path.startswith(root + "/"):
            return None
        own = f"{root}/{principal.namespace}/"
        # The root itself stands for the principal's own container (Custodia's default namespace).
        return path.startswith(own) or path.rstrip("/") == root

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether all of it lies in containers of others."""
        del action
        path, root = "/" + below, self.path.rstrip("/") + "/"
        own = f"{root}{principal.namespace}/"
        return path.startswith(root) and not (path.startswith(own) or own.startswith(path))

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return the principal's own container."""
        return (self.own_container(principal),)

    def own_container(self, principal: Principal) -> str:
        """Return the container below *path* that is named after it."""
        return f"{self.path.strip('/')}/{principal.namespace}/".lstrip("/")


def decide(deciders: Sequence[Decider], principal: Principal, action: Action, name: str) -> bool:
    """Return the joint answer: any False denies, at least one True is needed (Custodia's pipeline)."""
    allowed = False
    for decider in deciders:
        opinion = decider.decide(principal, action, name)
        if opinion is False:
            return False
        allowed = allowed or opinion is True
    return allowed


def opinion(deciders: Sequence[Decider], principal: Principal, action: Action, name: str) -> bool | None:
    """Return the joint opinion, where somebody is asked beside them: as `decide`, and None where none allows."""
    allowed = None
    for decider in deciders:
        said = decider.decide(principal, action, name)
        if said is False:
            return False
        allowed = allowed or said
    return allowed
