"""How the reports of a migration are shown, and what exit code each is."""

from typing import Any, Final

import msgspec

from deploy.cli import exits, show
from migration.report import Problem, Report

SHOWN: Final = 40  # problems of one kind at a terminal; the JSON has all

_COUNTS: Final = {
    "items": "items at the source",
    "create": "would be created",
    "update": "would be updated",
    "created": "created",
    "replaced": "replaced",
    "present": "are there and equal",
    "same": "equal on both sides",
    "keep": "would be kept as the service has them",
    "kept": "kept as the service has them",
    "conflict": "differ, and somebody must decide",
    "missing": "are missing in the service",
    "differs": "differ",
    "extra": "are in the service alone",
    "duplicate": "have the name of another",
    "bad": "cannot move",
    "refused": "are refused by the service",
    "changed": "changed meanwhile",
    "unplanned": "are not as they were planned",
    "note": "leave something behind",
    "scrubbed": "scrubbed",
    "restored": "restored at the source",
    "removed": "copies taken out",
    "found": "places where secrets remain",
    "unreachable": "places that cannot be reached",
}
_GRAVE: Final = frozenset(
    {"conflict", "missing", "differs", "duplicate", "bad", "refused", "changed", "unplanned", "found"}
)


def code(report: Report) -> int:
    """Return the exit code of *report*."""
    if report.complete:
        return exits.DONE
    if not report.counts.get("items") and report.verb in ("plan", "apply", "verify"):
        return exits.NOT_FOUND
    return exits.CONFLICT if report.counts.get("conflict") else exits.FAILED


def report(report: Report, more: dict[str, Any]) -> None:
    """Print *report*: a table and plain words for people, one document with *more* in it for programs."""
    if show.as_json():
        show.answer(msgspec.to_builtins(report) | more)
        return
    show.line(f"{report.verb} of {report.run}: {report.estate}")
    show.table(("", "records or items"), ([f"{report.counts[each]:,}", text] for each, text in _told(report)))
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        _problems([problem for problem in report.problems if problem.kind == kind])
    if report.facts:
        show.fields(report.facts)
    show.line("done" if report.complete else "not complete", style="bold green" if report.complete else "bold red")
    if report.next:
        show.line(f"next: {report.next}")


def _told(report: Report) -> list[tuple[str, str]]:
    known = [(each, text) for each, text in _COUNTS.items() if each in report.counts]
    return known + [(each, each) for each in report.counts if each not in _COUNTS]


def _problems(problems: list[Problem]) -> None:
    kind = problems[0].kind
    style = "red" if kind in _GRAVE else "yellow"
    show.table(
        (_COUNTS.get(kind, kind), "record", "why"),
        ([each.item, each.name, each.why] for each in problems[:SHOWN]),
        style=style,
    )
    if len(problems) > SHOWN:
        show.line(f"and {len(problems) - SHOWN:,} more; --json has all of them")
