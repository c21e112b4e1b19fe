"""Custodia's path rules, as truth tables."""

import pytest

from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Decider, Principal
from strongroom.storage_service.access.paths import (
    Reach,
    SimplePathAuthz,
    UserNameSpace,
    WholeReach,
    covers,
    decide,
    matches,
    meets,
)

ANYONE = Principal("apikey:ci")


@pytest.mark.parametrize(
    ("entries", "path", "expected"),
    [
        ("/secrets", "/secrets", True),
        ("/secrets", "/secrets/hosts/a", True),
        ("/secrets", "/secrets/", True),
        ("/secrets", "/secretsX", False),
        ("/secrets", "/secretsX/a", False),
        ("/secrets", "/", False),
        ("/secrets/", "/secrets/", True),
        ("/secrets/", "/secrets/hosts/a", False),
        ("/secrets/hosts.", "/secrets/hosts", True),
        ("/secrets/hosts.", "/secrets/hosts/a", False),
        ("/.", "/", True),
        ("/.", "/secrets", False),
        ("/", "/anything/at/all", True),
        ("/. /secrets", "/", True),
        ("/. /secrets", "/secrets/hosts/a", True),
        ("/. /secrets", "/hosts/a", False),
        ("", "/", False),
    ],
)
def test_path_entries(entries: str, path: str, expected: bool) -> None:
    """An entry covers what Custodia's SimplePathAuthz says it covers, by whole segments."""
    assert matches(entries.split(), path) is expected
    assert SimplePathAuthz(tuple(entries.split())).decide(ANYONE, Action.GET, path[1:]) is (True if expected else None)


@pytest.mark.parametrize(
    ("entries", "wanted", "expected"),
    [
        ("/", "/", True),
        ("/", "/secrets/a.", True),
        ("/secrets", "/secrets", True),
        ("/secrets", "/secrets/hosts", True),
        ("/secrets", "/secrets/hosts/", True),
        ("/secrets", "/secrets.", True),
        ("/secrets", "/secretsX", False),
        ("/secrets", "/", False),
        ("/secrets", "/.", False),
        ("/secrets/hosts.", "/secrets/hosts.", True),
        ("/secrets/hosts.", "/secrets/hosts", False),
        ("/secrets/hosts/", "/secrets/hosts", False),
        ("/secrets/hosts/", "/secrets/hosts/a", False),
        ("/.", "/", False),
        ("/. /secrets/a", "/secrets/a/b", True),
        ("", "/secrets", False),
    ],
)
def test_a_key_hands_on_no_more_than_it_has(entries: str, wanted: str, expected: bool) -> None:
    """An entry is covered by its own tree or itself; one for exactly a path gives nobody what lies below it."""
    assert covers(entries.split(), wanted) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("secrets/ci/key", True),
        ("secrets/ci/", True),
        ("secrets/ci/sub/key", True),
        ("secrets/", True),
        ("secrets/ciX/key", False),
        ("secrets/root/key", False),
        ("hosts/a", None),
        ("", None),
    ],
)
def test_user_namespace(name: str, expected: bool | None) -> None:
    """A principal has its own container under the path, no other one, and no say outside."""
    assert UserNameSpace("/secrets").decide(ANYONE, Action.GET, name) is expected


@pytest.mark.parametrize(
    ("principal", "container"),
    [("apikey:0", "0"), ("service:0", "service:0"), ("user:ci", "user:ci"), ("machine:ci", "machine:ci")],
)
def test_no_two_kinds_share_a_namespace(principal: str, container: str) -> None:
    """An API key's own container bears its id, which no other kind of principal can have one of."""
    decider = UserNameSpace("/secrets")

    for other in ("0", "service:0", "ci", "user:ci", "machine:ci"):
        name = f"secrets/{other}/k"
        assert decider.decide(Principal(principal), Action.GET, name) is (other == container), other


@pytest.mark.parametrize("name", ["*", "+", ",", "a/b", "..", "ci/../root"])
def test_a_user_name_never_widens_a_namespace(name: str) -> None:
    """Whatever characters a principal's name holds, they are compared, not interpreted."""
    hostile = Principal(f"apikey:{name}")

    assert UserNameSpace("/secrets").decide(hostile, Action.GET, "secrets/root/key") is False


@pytest.mark.parametrize(
    ("paths", "actions", "action", "name", "expected"),
    [
        (("/secrets",), ALL_ACTIONS, Action.GET, "secrets/hosts/a", None),
        (("/secrets/hosts",), ALL_ACTIONS, Action.GET, "secrets/tls/a", False),
        (("/secrets",), frozenset({Action.GET}), Action.PUT, "secrets/hosts/a", False),
        (("/secrets",), ALL_ACTIONS, Action.GET, "hosts/a", False),
        (("/hosts",), ALL_ACTIONS, Action.GET, "hosts/a", True),
        (("/",), ALL_ACTIONS, Action.PUT, "system/access/apikeys/x", True),
        (("/secrets",), ALL_ACTIONS, Action.PUT, "system/access/apikeys/x", False),
        (("/secrets",), ALL_ACTIONS, Action.GET, "", None),
    ],
)
def test_reach(
    paths: tuple[str, ...], actions: frozenset[Action], action: Action, name: str, expected: bool | None
) -> None:
    """Outside a credential's reach is no; inside, secrets are left to the authorizers and the rest is yes."""
    assert Reach().decide(Principal("apikey:x", paths, actions), action, name) is expected


class Opinion:
    def __init__(self, opinion: bool | None) -> None:
        self.opinion = opinion

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        return self.opinion

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        return self.opinion is False

    def tops(self, principal: Principal) -> tuple[str, ...]:
        return ()

    def own_container(self, principal: Principal) -> str | None:
        return None


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([], False),
        ([None], False),
        ([True], True),
        ([None, True], True),
        ([True, None], True),
        ([True, False], False),
        ([False, True], False),
    ],
)
def test_opinions_join(opinions: list[bool | None], expected: bool) -> None:
    """Any no denies, one yes is needed, and silence is no."""
    assert decide([Opinion(each) for each in opinions], ANYONE, Action.GET, "secrets/a/b") is expected


@pytest.mark.parametrize(
    ("entries", "below", "expected"),
    [
        (("/",), "/hosts/", True),
        (("/",), "/", True),
        (("/hosts",), "/hosts/", True),
        (("/hosts",), "/", True),
        (("/hosts/a",), "/hosts/", True),
        (("/hosts/a.",), "/hosts/", True),
        (("/hosts/a/",), "/hosts/", True),
        (("/hosts/a/",), "/", True),
        (("/hosts/",), "/hosts/", False),
        (("/hosts.",), "/hosts/", False),
        (("/host",), "/hosts/", False),
        (("/hostsmore",), "/hosts/", False),
        (("/secrets/hosts",), "/hosts/", False),
        (("/secrets", "/hosts/b"), "/hosts/", True),
        (("/.",), "/hosts/", False),
        ((), "/", False),
    ],
)
def test_what_may_be_reached_below_a_path(entries: tuple[str, ...], below: str, expected: bool) -> None:
    """Entries meet a tree when one of them covers a path in it, and not for its own name alone."""
    assert meets(entries, below) is expected


NAMES = ["hosts/", "hosts/a", "hosts/a/b", "secrets/", "secrets/x/k", "secrets/y/", "secrets/y/k", "system/x"]


@pytest.mark.parametrize("below", ["", "hosts/", "hosts/a/", "secrets/", "secrets/x/", "secrets/y/", "system/"])
@pytest.mark.parametrize("action", [Action.GET, Action.PUT])
@pytest.mark.parametrize(
    "principal",
    [
        Principal("apikey:x", paths, actions)
        for paths in (("/",), ("/hosts",), ("/hosts/a.",), ("/secrets/x/",), ("/secrets/y", "/system/x"), ("/.",), ())
        for actions in (ALL_ACTIONS, frozenset({Action.GET}))
    ],
)
def test_nothing_that_is_allowed_is_ruled_out(principal: Principal, action: Action, below: str) -> None:
    """Where one name in a tree is not refused, the tree is not ruled out, whichever decider is asked."""
    for decider in (Reach(), WholeReach(), SimplePathAuthz(("/secrets/x",)), UserNameSpace("/secrets")):
        if decider.rules_out(principal, action, below):
            found = [name for name in NAMES if name.startswith(below) and name != below]
            assert {decider.decide(principal, action, name) for name in found} <= {False}


@pytest.mark.parametrize(
    ("decider", "principal", "expected"),
    [
        (UserNameSpace("/secrets"), Principal("apikey:ci"), "secrets/ci/"),
        (UserNameSpace("/secrets/users/"), Principal("apikey:ci"), "secrets/users/ci/"),
        (UserNameSpace("/"), Principal("apikey:ci"), "ci/"),
        (UserNameSpace("/secrets"), Principal("service:990"), "secrets/service:990/"),
        (SimplePathAuthz(("/secrets/ci",)), Principal("apikey:ci"), None),
        (Reach(), Principal("apikey:ci", ("/secrets/ci",)), None),
        (WholeReach(), Principal("apikey:ci"), None),
    ],
)
def test_whose_container_is_whose(decider: Decider, principal: Principal, expected: str | None) -> None:
    """A name space gives each principal the container that is named after it; who has no name space gives none."""
    assert decider.own_container(principal) == expected


@pytest.mark.parametrize(
    ("decider", "principal", "expected"),
    [
        (Reach(), Principal("apikey:ci", ("/", "/secrets/db", "/secrets/web/", "/secrets/db/key.")), ["db/", "web/"]),
        (SimplePathAuthz(("/secrets/a/b", "/")), ANYONE, ["a/b/"]),
        (UserNameSpace("/secrets"), Principal("apikey:ci"), ["ci/"]),
        (WholeReach(), Principal("apikey:ci"), []),
    ],
)
def test_where_what_is_allowed_begins(decider: Decider, principal: Principal, expected: list[str]) -> None:
    """Each decider names the containers at which it begins to allow; what names one secret, or all, names none."""
    assert list(decider.tops(principal)) == [f"secrets/{each}" for each in expected]
