"""The grammar of names, and the type that never shows itself."""

import copy
import pickle
from contextlib import suppress

import pytest

from strongroom.models import InvalidName, Secret, names


@pytest.mark.parametrize(
    "name",
    ["hosts/10.0.0.7", "secrets/hosts/", "secrets/a/b/c", "a", "hosts/2001:db8::7", "a/...", "a/.b", "a" * 512],
)
def test_a_legal_name_is_returned(name: str) -> None:
    """What the grammar allows comes back as it is."""
    assert name == names.check(name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a//b", "a/./b", "../a", "a/..", "a/../", "a b", "a\n", "a\x00", "a%2Fb", "ä", "a\\b", "a" * 513],
)
def test_another_name_is_refused_and_not_repeated(name: str) -> None:
    """What the grammar forbids is refused, and the message has nothing of it."""
    with pytest.raises(InvalidName) as raised:
        names.check(name)

    assert len(name) < 3 or name not in str(raised.value)


def test_containers_hold_names() -> None:
    """A container ends in a slash, and a name and a container in it lie in the same."""
    assert names.is_container("secrets/hosts/")
    assert not names.is_container("secrets/hosts")
    assert names.container_of("secrets/hosts/a") == names.container_of("secrets/hosts/sub/") == "secrets/hosts/"
    assert names.container_of("secrets") == ""


def test_texts_lie_round_all_names_that_begin_alike() -> None:
    """Sorted as stores sort, one lies right before all that begin like a name, and one right behind them."""
    legal = []
    for character in map(chr, range(128)):
        with suppress(InvalidName):
            names.check(f"a{character}a")
            legal.append(character)
    assert len(legal) > 64
    for last in legal:
        alike = [f"b{last}{more}" for more in ("", *legal, f"{legal[-1]}{legal[-1]}")]
        others = [f"b{other}{more}" for other in legal if other != last for more in ("", *legal)]
        between = [each for each in others if names.before(f"b{last}") < each < names.behind(f"b{last}")]
        assert all(names.before(f"b{last}") < each < names.behind(f"b{last}") for each in alike)
        assert not between
    assert names.before("") == ""
    held = ["b/", *(f"b/{each}" for each in legal if each != "/")]
    others = [f"b{each}/" for each in legal if each != "/"]
    assert names.check(names.past("b/")) == names.past("b")
    assert all(each < names.past("b/") for each in held)
    assert not [each for each in others if max(held) < each < names.past("b/")]


def test_a_secret_shows_nothing() -> None:
    """Neither text, repr nor any formatting gives it out; only reveal does."""
    secret = Secret("canary")

    shown = f"{secret} {secret!r} {secret!s:>40} {secret:>40} {[secret]} {'%s' % secret}"  # noqa: UP031  # a form too
    assert "canary" not in shown
    assert secret.reveal() == "canary"


def test_a_secret_is_not_carried_off() -> None:
    """Pickling and copying are refused."""
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            carry(Secret("canary"))


def test_a_secret_compares_and_does_not_hash() -> None:
    """Equal texts are equal, whatever they hold, other types are not, and there is no hash."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("\ud800") == Secret("\ud800")
    assert Secret("a") != "a"
    assert bool(Secret("a")) is not bool(Secret(""))
    with pytest.raises(TypeError):
        hash(Secret("a"))
