"""How the reports of a migration are shown, and what exit code each is."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from strongroom.deploy import steps
from strongroom.deploy.cli import exits, show
from strongroom.deploy.cli.common import common
from strongroom.migration.report import Problem, Report
from strongroom.models.steps import Step

SHOWN: Final = 40  # problems of one kind at a terminal; the JSON has all

# In the order in which they are told: first what there is, then what is well, then what is not.
_COUNTS: Final[Mapping[str, tuple[str, str]]] = {  # of many, and of one
    "items": ("items at the source", "item at the source"),
    "records": ("records that they become", "record that it becomes"),
    "create": ("would be created", "would be created"),
    "update": ("would be updated", "would be updated"),
    "created": ("created", "created"),
    "replaced": ("replaced", "replaced"),
    "present": ("are there and equal", "is there and equal"),
    "same": ("equal on both sides", "equal on both sides"),
    "keep": ("would be kept as the service has them", "would be kept as the service has it"),
    "kept": ("kept as the service has them", "kept as the service has it"),
    "scrubbed": ("without their secrets at the source", "without its secrets at the source"),
    "scrubbed now": ("of those by this run", "of those by this run"),
    "restored": ("put back at the source", "put back at the source"),
    "undone": ("copies taken out, or what they replaced put back", "copy taken out, or what it replaced put back"),
    "not ours": ("were there before, and stay", "was there before, and stays"),
    "searched": ("pieces of secrets searched for", "piece of a secret searched for"),
    "containers kept": (
        "containers that hold something else, and stay",
        "container that holds something else, and stays",
    ),
    "no host": (
        "are credentials that have no host yet: strongroom host put ADDRESS makes it",
        "is credentials that have no host yet: strongroom host put ADDRESS makes it",
    ),
    "extra": ("in the service alone", "in the service alone"),
    "note": ("notes", "note"),
    "unreachable": ("places that cannot be searched", "place that cannot be searched"),
    "duplicate": ("have the name of another", "has the name of another"),
    "bad": ("cannot move", "cannot move"),
    "too-large": ("are too large for the journal", "is too large for the journal"),
    "unmoved": ("have not moved", "has not moved"),
    "refused": ("refused by the service", "refused by the service"),
    "unplanned": ("not as they were planned", "not as it was planned"),
    "conflict": ("differ, and somebody must decide", "differs, and somebody must decide"),
    "missing": ("missing in the service", "missing in the service"),
    "differs": ("differ", "differs"),
    "superseded": (
        "were changed or removed in the service, and are removed here, too",
        "was changed or removed in the service, and is removed here, too",
    ),
    "changed": ("changed meanwhile", "changed meanwhile"),
    "waiting": ("stay until their items are back", "stays until its item is back"),
    "found": ("places where secrets remain", "place where secrets remain"),
}
_GRAVE: Final = frozenset(
    {
        *("duplicate", "bad", "too-large", "unmoved", "refused", "unplanned", "conflict", "missing", "differs"),
        *("changed", "waiting", "found"),
    }
)
_DOUBTFUL: Final = frozenset({"no host", "extra", "note", "unreachable", "superseded"})
_HEADINGS: Final = {"note": "note", "found": "secrets remain", "unreachable": "not searched", "extra": "extra"}
_READING: Final = ("plan", "apply", "verify")  # which are nothing if the source has nothing
_WELL: Final = {"plan": "all of it can move"}


def code(report: Report) -> int:
    """Return the exit code of *report*."""
    if report.complete:
        return exits.DONE
    if not report.counts.get("items") and report.verb in _READING:
        return exits.NOT_FOUND
    return exits.CONFLICT if report.counts.get("conflict") else exits.FAILED


def report(report: Report, more: Mapping[str, Any]) -> None:
    """Print *report*: counts and plain words for people, one document with *more* in it for programs."""
    if show.as_json():
        show.answer(msgspec.to_builtins(report) | dict(more))
        return
    show.words(f"{report.verb} of {report.source}", style="bold")
    told = list(_told(report))
    width = max((len(f"{count:,}") for count, _, _ in told), default=0)
    for count, text, style in told:
        show.line(f"  {count:>{width},}  {text}", style=style)
    for kind in sorted({problem.kind for problem in report.problems}, key=_order):
        _problems([problem for problem in report.problems if problem.kind == kind])
    show.line("")
    if report.facts:
        show.fields(report.facts)
    show.line(*_verdict(report))
    next_steps(report.next)


def next_steps(following: Iterable[Step]) -> None:
    """Print what to do next: each command on a line of its own, as it can be typed."""
    lead = "next: "
    for step in following:
        show.words(lead + step.reason)
        _command(step)
        lead = ""


def _command(step: Step) -> None:
    if typed := steps.command(step, common().lead):
        show.line(f"    {typed}", style="bold")


def _told(report: Report) -> Iterator[tuple[int, str, str]]:
    counts = ({"items": 0} if report.verb in _READING else {}) | report.counts
    for kind in sorted(counts, key=_order):
        if counts[kind] or kind == "items":
            yield counts[kind], counted(kind, counts[kind]), _style(kind)


def counted(kind: str, count: int) -> str:
    """Return what *count* of a kind are called."""
    many, one = _COUNTS.get(kind, (kind, kind))
    return one if count == 1 else many


def _order(kind: str) -> int:
    return list(_COUNTS).index(kind) if kind in _COUNTS else len(_COUNTS)


def _style(kind: str) -> str:
    return "red" if kind in _GRAVE else "yellow" if kind in _DOUBTFUL else ""


def _verdict(report: Report) -> tuple[str, str]:
    if not report.complete:
        return "not complete" + (f": {_moved(report)}" if report.verb == "apply" else ""), "bold red"
    if any(report.counts.get(kind) for kind in _GRAVE):
        return "done, but for what is listed", "bold yellow"
    return _WELL.get(report.verb, "done"), "bold green"


def _moved(report: Report) -> str:
    """Return how much an apply wrote that did not end well: what has moved stays, and what has not is where it was."""
    count = sum(report.counts.get(kind, 0) for kind in ("created", "replaced"))
    if not count:
        return "nothing was moved"
    return f"{count:,} record{' was' if count == 1 else 's were'} moved, which the source still has, too"


def _problems(problems: list[Problem]) -> None:
    """Print problems of one kind: why, and under that each of which it is said."""
    kind = problems[0].kind
    shown: dict[str, list[Problem]] = {}
    for problem in problems[:SHOWN]:
        shown.setdefault(problem.why, []).append(problem)
    show.line("")
    for why, some in shown.items():
        show.words(f"{_HEADINGS.get(kind) or counted(kind, len(some))}: {why}", style=_style(kind))
        for problem in some:
            whole = f"    {problem.item}  {problem.name}".rstrip()
            if not problem.item or not problem.name or show.fits(whole):
                show.line(f"    {problem.item or problem.name}" if not problem.item or not problem.name else whole)
            else:
                show.line(f"    {problem.item}")
                show.line(f"        {problem.name}")
            for step in problem.next:
                _command(step)
    if len(problems) > SHOWN:
        show.line(f"    and {len(problems) - SHOWN:,} more; --json has all of them")
