"""Who may come from where: the network rules of the configuration, which mean what Convection's do.

Without one, everybody may come from everywhere. With one, what no rule allows is refused; all that match have their
say, and one that denies wins. Built-in rules stand behind them: from this machine one may log in, and ask for the
status. They speak of requests over the network, through the proxy, whoever asks; over the unix socket they say nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from strongroom.models import names
from strongroom.models.access import Right, check_network
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.rules import Network, is_within, rights_of
from strongroom.storage_service.config import NetworkRuleSettings
from strongroom.storage_service.errors import ConfigurationError, Denied

EVERYTHING: Final = "*"
LOGIN: Final = "login"  # to ask for a challenge, answer one, or set a principal up
STATUS: Final = "status"
COMMANDS: Final = (*(right.value for right in Right), LOGIN, STATUS, EVERYTHING)
UNKNOWN: Final = "unknown"  # the address of who comes over the network, and nobody knows from where

_BUILT_IN: Final = (NetworkRuleSettings(type="allow", addresses=("127.0.0.1", "::1"), commands=(LOGIN, STATUS)),)


class _Rule(NamedTuple):
    denies: bool
    networks: tuple[Network, ...]
    commands: frozenset[str]

    def speaks_of(self, command: str) -> bool:
        return command in self.commands or EVERYTHING in self.commands


class NetworkRules:
    """The rules, compiled; as one of those who decide they refuse, and allow nothing that nobody else does."""

    def __init__(self, rules: Sequence[NetworkRuleSettings]) -> None:
        """Take the rules of the configuration.

        Raises:
            ConfigurationError: an address is no network, or there is no such command.
        """
        self._rules = tuple(map(_compiled, (*rules, *_BUILT_IN))) if rules else ()

    def check(self, address: str | None, command: str = "") -> None:
        """Return if *command* may be asked for from *address*; without one, if anything may.

        Raises:
            Denied: it may not.
        """
        wanted = (command,) if command else COMMANDS
        if self._rules and not any(self._allows(address or UNKNOWN, each) for each in wanted):
            raise Denied("no network rule allows this address to ask for it")

    def _allows(self, address: str, command: str) -> bool:
        said = [rule.denies for rule in self._rules if rule.speaks_of(command) and is_within(address, rule.networks)]
        return bool(said) and not any(said)

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return False where it may not be asked for from where *principal* comes; else no opinion."""
        if not self._rules or principal.address is None or name == "":
            return None
        wanted = (STATUS,) if name == names.STATUS else tuple(right.value for right in rights_of(action.value, name))
        return None if all(self._allows(principal.address, each) for each in wanted) else False

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Whether nothing at all may be asked for from there; what is more is decided name by name."""
        del action, below
        if not self._rules or principal.address is None:
            return False
        return not any(self._allows(principal.address, each) for each in COMMANDS)

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return none: they allow nothing."""
        del principal
        return ()

    def own_container(self, principal: Principal) -> str | None:
        """Return None: they give nobody one."""
        del principal
        return None


def _compiled(rule: NetworkRuleSettings) -> _Rule:
    if not rule.addresses or not rule.commands:
        raise ConfigurationError("a network rule names addresses and commands")
    for command in rule.commands:
        if command not in COMMANDS:
            raise ConfigurationError(f"a network rule's commands are of {', '.join(COMMANDS)}")
    try:
        networks = tuple(Network.of(check_network(address)) for address in rule.addresses)
    except InvalidName as error:
        raise ConfigurationError(f"a network rule: {error}") from None
    return _Rule(rule.type != "allow", networks, frozenset(rule.commands))
