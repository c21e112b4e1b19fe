"""What is to be done next, as a command that can be typed as it stands: it leads to the service that was meant."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:  # a command starts without all that models import
    from strongroom.models.steps import Option, Step

ARGUMENTS: Final = (
    "source",
    "place",
    "run",
    "keyset",
    "id",
    "address",
    "container",
    "file",
)  # said without a flag, in this order
FLAGS: Final = {"option": "-o", "typed": "--file"}  # of those that are not said by their own name
TO_FILL: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "apikey create": (("id",), "ID"),
    "apikey end-former": (("id",), "ID"),
    "backup take": (("file",), "FILE"),
    "backup verify": (("file",), "FILE"),
    "host put": (("address",), "ADDRESS"),
    "key import": (("file",), "FILE"),
    "machine authorize": ((), "PUBFILE --name NAME"),
    "migrate check": (("file",), "FILE"),
    "restore": (("file",), "FILE"),
    "secret cp": (("source",), "FROM TO"),
    "secret mkdir": (("container",), "CONTAINER"),
    "secret mv": (("source",), "FROM TO"),
    "secret rm": (("container",), "CONTAINER/KEY"),
    "service setup": (("id",), "NAME"),
    "user add": (("id",), "NAME"),
    "user setup": (("id",), "NAME"),
}
"""What people have to fill in themselves, unless the step has the option for it."""
ELSEWHERE: Final = frozenset({"machine authorize"})  # what another machine is to do, whose home nobody here knows
WITH_CONFIG: Final = frozenset({"key import", "machine init", "machine list"})  # what takes a file of settings


class Lead(NamedTuple):
    """The options that lead a command to a service, as given: None for one that was not."""

    home: Path | None = None
    socket: Path | None = None
    config: Path | None = None
    ca: Path | None = None
    url: str = ""


def command(step: "Step", lead: Lead) -> str:
    """Return the command that does *step*, quoted for a shell; "" where none does."""
    if step.verb is None:
        return ""
    known, missing = TO_FILL.get(step.verb, ((), ""))
    words, said, flags = (
        ["strongroom", *_leading(step, lead), *_spelled(step)],
        _arguments(step.options),
        _flags(step, lead),
    )
    fill = [missing] if missing and not any(name in step.options for name in known) else []
    if any(each.startswith("-") for each in said):  # which would be read as options
        return _joined([*words, *flags, "--", *said])
    return " ".join([_joined([*words, *said]), *fill, _joined(flags)]).rstrip()


def _joined(words: "Iterable[str]") -> str:
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return *word* as a shell reads it; with escapes, where a terminal would be steered by what is in it."""
    from strongroom.storage_service.printable import printable  # not for a command that ends well

    if printable(word) == word:
        return shlex.quote(word)
    kept = (_escaped(character) for character in word)
    return f"$'{''.join(kept)}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isascii() and character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogateescape"))


def sentence(step: "Step", lead: Lead) -> str:
    """Return *step* as words that end with its command."""
    typed = command(step, lead)
    return f"{step.reason}: {typed}" if typed else step.reason


def line(text: str, following: "Iterable[Step]", lead: Lead) -> str:
    """Return *text* and what is to be done about it on one line, which steers no terminal."""
    from strongroom.storage_service.printable import printable  # not for a command that ends well

    return printable("; ".join([" ".join(text.split()), *(sentence(step, lead) for step in following)]))


def as_data(following: "Iterable[Step]") -> list[dict[str, Any]]:
    """Return *following* for programs."""
    return [{"reason": step.reason, "verb": step.verb, "options": step.options} for step in following]


def _leading(step: "Step", lead: Lead) -> Sequence[str]:
    """Return what stands before the verb: where the step itself leads to, or else what was said."""
    if "home" in step.options or "socket" in step.options:
        places: Mapping[str, object] = {name: step.options.get(name) for name in ("home", "socket")}
    elif step.verb in ELSEWHERE:
        places = {}
    else:
        places = {"home": lead.home}
        if step.verb != "up":
            places |= {"socket": lead.socket, "ca": lead.ca, "url": lead.url or None}
    return [word for name, value in places.items() if value is not None for word in (f"--{name}", str(value))]


def _spelled(step: "Step") -> list[str]:
    """Return the verb as people type it: that of a backup goes unsaid, if its file is not called as a verb is."""
    words = (step.verb or "").split()
    return words[:1] if step.verb == "backup take" and step.options.get("file") not in {"take", "verify"} else words


def _arguments(options: "Mapping[str, Option]") -> list[str]:
    return [str(options[name]) for name in ARGUMENTS if name in options]


def _flags(step: "Step", lead: Lead) -> Iterator[str]:
    if lead.config is not None and step.verb in WITH_CONFIG:
        yield from ("--config", str(lead.config))
    for name, value in step.options.items():
        if name in (*ARGUMENTS, "home", "socket") or value is False:
            continue
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        if value is True:
            yield flag
            continue
        for each in value if isinstance(value, list) else [value]:
            yield from (flag, str(each))
