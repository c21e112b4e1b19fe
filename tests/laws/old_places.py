"""The law of old places: what the service may rely on of whatever it reads through to.

A member of the family gives a `Hand`, by which a test fills the place; the laws raise AssertionError where the place
breaks them:

    @pytest.mark.parametrize("law", LAWS, ids=name_of)
    def test_law(law: Law) -> None:
        law(hand)
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import pytest

from strongroom.storage_service.backends.read_through import OldPlace
from strongroom.storage_service.errors import Unavailable

NONE: Final = ["secrets/hosts/there-is-none", "secrets/there/is-none", "hosts/h7", "secrets/hosts/"]


class Hand(Protocol):
    """A place that a test fills, empty at first. Its methods may block, and are called while no event loop runs."""

    def place(self) -> OldPlace:
        """Return what asks it, unopened."""

    def put(self) -> str:
        """Put a secret in, with a value of its own, and return its name."""

    def change(self, name: str) -> None:
        """Give it another value."""

    def value_of(self, name: str) -> str:
        """Return its value as it would be stored."""

    def break_one(self) -> str:
        """Put a malformed one in, and return its name."""

    def stop(self) -> None:
        """Let it answer nobody."""

    def start(self) -> None:
        """Let it answer again."""


Law: TypeAlias = Callable[[Hand], None]
T = TypeVar("T")


def what_is_there_is_found(hand: Hand) -> None:
    """Each name that was asked for and is there, with its value, and no other."""
    names = [hand.put(), hand.put(), hand.put()]
    with _Opened(hand) as place:
        assert place.find([*NONE, *names[:2]]) == {name: hand.value_of(name) for name in names[:2]}
        assert place.find(NONE) == {}
        assert place.find([]) == {}


def what_is_found_is_of_now(hand: Hand) -> None:
    """What came or changed after the place was opened is told as it is."""
    with _Opened(hand) as place:
        name = hand.put()
        before = place.find([name])
        hand.change(name)

        assert before != place.find([name]) == {name: hand.value_of(name)}


def what_is_malformed_is_told(hand: Hand) -> None:
    """It is neither left out nor repeated, and hides no other."""
    broken, whole = hand.break_one(), hand.put()
    with _Opened(hand) as place:
        assert place.find([broken, whole]) == {broken: None, whole: hand.value_of(whole)}


def silence_is_no_answer(hand: Hand) -> None:
    """A place that is down says so, and is asked again when it is up: whether it was open before or not."""
    name = hand.put()
    with _Opened(hand) as opened, _Opened(hand, at_once=False) as unopened:
        hand.stop()
        for ask in (lambda: opened.find([name]), unopened.open):
            with pytest.raises(Unavailable) as caught:
                ask()
            assert hand.value_of(name) not in str(caught.value)
        hand.start()
        unopened.open()

        assert opened.find([name]) == unopened.find([name]) == {name: hand.value_of(name)}
        unopened.close()


def the_identity_stays(hand: Hand) -> None:
    """Whoever asks for the same place gets the same words, opened or not."""
    name, unopened = hand.put(), hand.place()
    with _Opened(hand) as place:
        assert place.place.identity == unopened.identity != ""
        assert hand.value_of(name) not in unopened.identity


class _Opened:
    """A place on an event loop of its own, driven from outside; it is closed in the end."""

    def __init__(self, hand: Hand, *, at_once: bool = True) -> None:
        self.place = hand.place()
        self._runner = asyncio.Runner()
        self._at_once = at_once

    def __enter__(self) -> "_Opened":
        if self._at_once:
            self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()

    def open(self) -> None:
        self._runner.run(_awaiting(self.place.open()))

    def close(self) -> None:
        self._runner.run(_awaiting(self.place.close()))

    def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        return self._runner.run(_awaiting(self.place.find(names)))


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable


LAWS: Final[Sequence[Law]] = (
    what_is_there_is_found,
    what_is_found_is_of_now,
    what_is_malformed_is_told,
    silence_is_no_answer,
    the_identity_stays,
)


def name_of(law: Law) -> str:
    """The name of a law."""
    return getattr(law, "__name__", "")


class Attic:
    """An old place in memory and the hand that fills it; *asked* lists what was asked for. It *hangs* if told to."""

    def __init__(self, name: str = "attic") -> None:
        self.name = name
        self.values: dict[str, str | None] = {}
        self.asked: list[str] = []
        self.opened = 0
        self.silent = False
        self.hangs = False

    def place(self) -> OldPlace:
        """Return one that asks."""
        return _InAttic(self)

    def put(self) -> str:
        """Put a secret in."""
        name = f"secrets/hosts/h{len(self.values)}"
        self.values[name] = f"old value of {name}"
        return name

    def change(self, name: str) -> None:
        """Change it."""
        self.values[name] = self.value_of(name) + ", changed"

    def value_of(self, name: str) -> str:
        """Return its value."""
        return self.values[name] or ""

    def break_one(self) -> str:
        """Put a malformed one in."""
        name = self.put()
        self.values[name] = None
        return name

    def stop(self) -> None:
        """Answer nobody."""
        self.silent = True

    def start(self) -> None:
        """Answer again."""
        self.silent = False


class _InAttic:
    def __init__(self, attic: Attic) -> None:
        self._attic = attic

    @property
    def identity(self) -> str:
        return self._attic.name

    async def open(self) -> None:
        await self._answer()
        self._attic.opened += 1

    async def close(self) -> None:
        pass

    async def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        await self._answer()
        self._attic.asked += names
        return {name: self._attic.values[name] for name in names if name in self._attic.values}

    async def _answer(self) -> None:
        if self._attic.hangs:
            await asyncio.Event().wait()
        if self._attic.silent:
            raise Unavailable(f"{self._attic.name} is silent")
