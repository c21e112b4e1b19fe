"""The rules as one of those who decide: what they say of an act, by the records of access as they are."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from strongroom.models.access import Rule
from strongroom.models.names import RULES, SECRETS
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.directory import Snapshot
from strongroom.storage_service.access.rules import Rules, Verdict, rights_of

EVERY_RULE: Final = RULES + "-"  # no rule is called so: who may write it may write every rule, and so do everything


class Ruling:
    """Rules over everybody. They allow nothing to those whose credentials carry their own reach, and can deny it.

    Those who are *exempt* they do not concern: the service's own key, without which nobody could mend the rules.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Take the clock; there are no rules, until a snapshot is taken."""
        self._now = now
        self._rules = Rules({})
        self._known = Snapshot()
        self._last: tuple[Principal, Action, str, Verdict] | None = None

    @property
    def rules(self) -> Rules:
        """The rules, compiled."""
        return self._rules

    @property
    def known(self) -> Snapshot:
        """The records of access that they are of."""
        return self._known

    @property
    def revision(self) -> int:
        """Of which change of access they are."""
        return self._known.epoch.number

    def take(self, known: Snapshot) -> None:
        """Let the rules of *known* hold from now on; work is done for those that changed."""
        before = self._known.rules
        changes: dict[str, Rule | None] = {name: None for name in before if name not in known.rules}
        changes |= {name: rule for name, rule in known.rules.items() if before.get(name) is not rule}
        if len(changes) * 4 > len(known.rules):
            self._rules = Rules(known.rules)
        elif changes:
            self._rules = self._rules.changed(changes)
        self._known = known
        self._last = None

    def verdict(self, principal: Principal, action: Action, name: str) -> Verdict:
        """Return what the rules say, whoever asks."""
        verdict = self._rules.act(principal, action.value, name, self._now())
        self._last = principal, action, name, verdict
        return verdict

    def _of(self, principal: Principal, action: Action, name: str) -> Verdict:
        """Return the verdict that was just found, if it was this one."""
        last = self._last
        if last is not None and last[0] is principal and last[1] is action and last[2] == name:
            return last[3]
        return self.verdict(principal, action, name)

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return False where a rule denies it, or may have; True where one allows it to who is ruled."""
        if principal.exempt or name == "":
            return None
        if self._known.damaged is not None:
            return False  # what cannot be read may have denied it
        if not principal.ruled and not self._rules.rules:
            return None
        allowed = self.verdict(principal, action, name).allowed
        return allowed if principal.ruled or allowed is False else None

    def visible(self, principal: Principal, names: Sequence[str]) -> Sequence[str]:
        """Return those of *names* that the rules let *principal* see in a listing."""
        if principal.exempt or (not principal.ruled and not self._rules.rules):
            return names
        if principal.ruled:
            return [] if self._known.damaged is not None else self._rules.visible(principal, names, self._now())
        return [name for name in names if self.decide(principal, Action.LIST, name) is not False]

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether the rules allow nothing there to who is ruled."""
        if principal.exempt or not principal.ruled:
            return False
        if self._known.damaged is not None:
            return True
        either = (Action.CREATE, Action.MODIFY) if action is Action.PUT else (action,)
        return all(self._rules.rules_out_act(principal, each.value, below, self._now()) for each in either)

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return the containers at which what the rules let *principal* list may begin."""
        if not principal.ruled:
            return ()
        (right,) = rights_of(Action.LIST.value, SECRETS)
        return self._rules.tops(principal, right, self._now())

    def own_container(self, principal: Principal) -> str | None:
        """Return None: they give nobody one."""
        del principal
        return None

    def inputs(self, principal: Principal, action: Action, name: str) -> dict[str, object] | None:
        """Return what a decision was made of, so that it can be made again; None where no rule had a say.

        Where a rule is damaged they had none: nobody knows what it says.
        """
        if principal.exempt or name == "" or self._known.damaged is not None:
            return None
        if not (principal.ruled or self._rules.rules):
            return None
        verdict = self._of(principal, action, name)
        return {
            "rights": [right.value for right in rights_of(action.value, name)],
            "groups": sorted(principal.groups),
            "credential": principal.credential,
            "rules": list(verdict.rules),
            "verdict": verdict.allowed,
            "revision": self.revision,
        }
