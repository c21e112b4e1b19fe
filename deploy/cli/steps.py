"""What is to be done next, as a command that can be typed as it stands: it leads to the service that was meant."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from strongroom.deploy.cli.common import Common, common
from strongroom.storage_service.printable import printable

if TYPE_CHECKING:
    from strongroom.models.steps import Option, Step

_ARGUMENTS: Final = (
    "source",
    "place",
    "run",
    "keyset",
    "id",
    "container",
    "file",
)  # what is said without a flag, in this order
_PLACES: Final = ("home", "socket")  # which the verb of the root takes
_FLAGS: Final = {"option": "-o"}
_ELSEWHERE: Final = frozenset({"machine authorize"})  # what another machine is to do, whose home nobody here knows


def command(step: "Step", said: Common | None = None) -> str:
    """Return the command that does *step*, quoted for a shell; "" where none does.

    Args:
        step: what is to be done.
        said: which service was meant; None: that of the command that is carried out.
    """
    if step.verb is None:
        return ""
    return shlex.join(["strongroom", *_place(step, said or common()), *step.verb.split(), *_words(step.options)])


def sentence(step: "Step", said: Common | None = None) -> str:
    """Return *step* as words that end with its command."""
    typed = command(step, said)
    return f"{step.reason}: {typed}" if typed else step.reason


def line(text: str, following: "Iterable[Step]", said: Common | None = None) -> str:
    """Return *text* and what follows from it on one line, which steers no terminal."""
    return printable("; ".join([" ".join(text.split()), *(sentence(step, said) for step in following)]))


def as_data(steps: "Iterable[Step]") -> list[dict[str, Any]]:
    """Return *steps* for programs."""
    return [{"reason": step.reason, "verb": step.verb, "options": step.options} for step in steps]


def _place(step: "Step", said: Common) -> Sequence[str]:
    places: Mapping[str, object] = {name: step.options[name] for name in _PLACES if name in step.options}
    if not places and step.verb not in _ELSEWHERE:
        places = {"home": said.home, "socket": said.socket}
    return [word for name, value in places.items() if value is not None for word in (f"--{name}", str(value))]


def _words(options: "Mapping[str, Option]") -> Iterator[str]:
    for name in _ARGUMENTS:
        if name in options:
            yield str(options[name])
    for name, value in options.items():
        if name in (*_ARGUMENTS, *_PLACES) or value is False:
            continue
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        if value is True:
            yield flag
            continue
        for each in value if isinstance(value, list) else [value]:
            yield from (flag, str(each))
