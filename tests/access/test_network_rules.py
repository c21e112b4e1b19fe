"""Who may come from where: Convection's semantics, against each sentence of them, and against brute force."""

import itertools
from collections.abc import Sequence

import pytest

from strongroom.models import names
from strongroom.models.access import Right
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.networks import COMMANDS, UNKNOWN, NetworkRules
from strongroom.storage_service.config import NetworkRuleSettings
from strongroom.storage_service.errors import ConfigurationError, Denied


def rule(kind: str, addresses: Sequence[str], commands: Sequence[str]) -> NetworkRuleSettings:
    """Return a rule of the configuration."""
    return NetworkRuleSettings(type=kind, addresses=tuple(addresses), commands=tuple(commands))


def may(rules: Sequence[NetworkRuleSettings], address: str | None, command: str) -> bool:
    """Return whether *command* may be asked for from *address*."""
    try:
        NetworkRules(rules).check(address, command)
    except Denied:
        return False
    return True


INSIDE = rule("allow", ["192.0.2.0/24", "2001:db8::/32"], ["read", "list"])
NOT_HIM = rule("deny", ["192.0.2.66"], ["*"])


def test_without_a_rule_everybody_may_come() -> None:
    """Network rules are off until one is configured."""
    assert all(may([], address, command) for address in ("198.51.100.1", UNKNOWN, None) for command in COMMANDS)
    decided = NetworkRules([]).decide(Principal("user:ann", address="198.51.100.1"), Action.GET, "secrets/a")
    assert decided is None


@pytest.mark.parametrize(
    ("address", "command", "allowed"),
    [
        ("192.0.2.7", "read", True),
        ("2001:db8::7", "list", True),
        ("::ffff:192.0.2.7", "read", True),
        ("192.0.2.7", "delete", False),  # no rule allows it
        ("198.51.100.7", "read", False),
        ("192.0.2.66", "read", False),  # one that denies wins
        (UNKNOWN, "read", False),
        (None, "read", False),
        ("::ffff:192.0.2.66", "read", False),
        ("127.0.0.1", "read", False),
        ("127.0.0.1", "status", True),  # built in
        ("127.0.0.1", "login", True),
        ("::1", "login", True),
        ("192.0.2.7", "login", False),
    ],
)
@pytest.mark.parametrize("rules", [[INSIDE, NOT_HIM], [NOT_HIM, INSIDE]], ids=["allow first", "deny first"])
def test_what_no_rule_allows_is_refused(
    rules: list[NetworkRuleSettings], address: str | None, command: str, allowed: bool
) -> None:
    """The default is no, all that match have their say, in any order, and rules are built in for this machine."""
    assert may(rules, address, command) is allowed


def test_a_rule_that_denies_undoes_what_is_built_in() -> None:
    """What is built in is one rule among others: one that denies wins over it."""
    assert not may([rule("deny", ["127.0.0.0/8"], ["login"]), INSIDE], "127.0.0.1", "login")
    assert may([rule("deny", ["127.0.0.0/8"], ["login"]), INSIDE], "127.0.0.1", "status")


def test_every_small_set_of_rules_says_what_brute_force_does() -> None:
    """Of up to three rules each: allowed where some rule that matches allows, and none that does denies."""
    networks = {"10.0.0.0/8": ("10.1.0.1", "10.2.0.1"), "10.1.0.0/16": ("10.1.0.1",), "0.0.0.0/0": None}
    universe = [
        rule(kind, [network], [command])
        for kind in ("allow", "deny")
        for network in networks
        for command in ("read", "*")
    ]
    for size in (1, 2, 3):
        for rules in itertools.combinations(universe, size):
            compiled = NetworkRules(rules)
            for address, command in itertools.product(("10.1.0.1", "10.2.0.1", "11.0.0.1"), ("read", "delete")):
                said = [
                    each.type
                    for each in rules
                    if each.commands[0] in (command, "*")
                    and (networks[each.addresses[0]] is None or address in (networks[each.addresses[0]] or ()))
                ]
                wanted = "allow" in said and "deny" not in said
                asker = Principal("user:ann", address=address)
                action = Action.GET if command == "read" else Action.DELETE
                assert compiled.decide(asker, action, "secrets/a") is (None if wanted else False), (rules, address)


@pytest.mark.parametrize(
    ("action", "name", "command"),
    [
        (Action.GET, "secrets/db/a", "read"),
        (Action.LIST, "secrets/db/", "list"),
        (Action.CREATE, "hosts/h", "create"),
        (Action.MODIFY, "hosts/h", "modify"),
        (Action.DELETE, "hosts/h", "delete"),
        (Action.GET, names.STATUS, "status"),
        (Action.PUT, names.KEYRING + "lock", "lock"),
        (Action.PUT, names.KEYRING + "export", "export"),
        (Action.GET, names.APIKEYS + "ci", "access"),
        (Action.GET, names.JOURNAL + "x", "migrate"),
    ],
)
def test_an_act_needs_its_own_command(action: Action, name: str, command: str) -> None:
    """The same table as that of rules says what an act is; another command is worth nothing for it."""
    ann = Principal("user:ann", address="192.0.2.7")
    for other in COMMANDS:
        allowed = NetworkRules([rule("allow", ["192.0.2.7"], [other])])
        assert allowed.decide(ann, action, name) is (None if other in (command, "*") else False), other


def test_to_put_needs_both() -> None:
    """Who may create alone from there does not put what may be there already."""
    ann = Principal("user:ann", address="192.0.2.7")
    assert NetworkRules([rule("allow", ["192.0.2.7"], ["create"])]).decide(ann, Action.PUT, "secrets/a") is False
    both = NetworkRules([rule("allow", ["192.0.2.7"], ["create", "modify"])])
    assert both.decide(ann, Action.PUT, "secrets/a") is None


def test_over_the_socket_they_say_nothing() -> None:
    """Whoever is on this machine's unix socket has no address; the ping is refused to nobody."""
    nobody_comes = NetworkRules([rule("deny", ["0.0.0.0/0", "::/0"], ["*"])])
    assert nobody_comes.decide(Principal("user:ann"), Action.GET, "secrets/a") is None
    assert not nobody_comes.rules_out(Principal("user:ann"), Action.GET, "secrets/")
    assert nobody_comes.rules_out(Principal("user:ann", address="192.0.2.7"), Action.GET, "secrets/")
    assert nobody_comes.decide(Principal("user:ann", address="192.0.2.7"), Action.GET, "") is None


@pytest.mark.parametrize(
    ("addresses", "commands", "words"),
    [
        ([], ["read"], "names addresses and commands"),
        (["192.0.2.7"], [], "names addresses and commands"),
        (["192.0.2.7/24"], ["read"], "no bit set below"),
        (["::ffff:192.0.2.0/120"], ["read"], "one of IPv4"),
        (["example.net"], ["read"], "an address"),
        (["192.0.2.7"], ["reed"], "commands are of read"),
    ],
)
def test_a_rule_that_cannot_be_ends_the_start(addresses: list[str], commands: list[str], words: str) -> None:
    """What would match nothing, or something else than it seems, is refused when the settings are read."""
    with pytest.raises(ConfigurationError, match=words):
        NetworkRules([rule("allow", addresses, commands)])


def test_every_right_is_a_command() -> None:
    """What rules can speak of, network rules can."""
    assert {right.value for right in Right} <= set(COMMANDS)
