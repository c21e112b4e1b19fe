"""``strongroom rule``: who may do what, why, and what other rules would have said."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from strongroom.deploy.cli import asking, show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import MEMBER, RULE
from strongroom.deploy.cli.exits import DIFFERS, FAILED
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from strongroom.storage_service.wire.rules import (
        CaseInfo,
        ExplanationInfo,
        FlipInfo,
        RemedyInfo,
        RuleBody,
        RuleInfo,
        RulesDiff,
    )

_LONG: Final = 120.0  # seconds: an import of very many rules is written in many parts
_COLUMNS: Final = ("name", "effect", "subjects", "actions", "names", "networks", "expires", "note")
_SAYS: Final = {True: "yes", False: "no", None: "nothing"}

_NAME: Final = click.argument("name", metavar="RULE", shell_complete=RULE)
_FILE: Final = click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))


@click.group(cls=Noun)
def rule() -> None:
    """Say who may do what, ask why, and try other rules."""


@rule.command()
@common_options
def ls() -> None:
    """List rules."""
    rows: list[RuleInfo] = []
    with client() as service:
        after: str | None = ""
        while after is not None:
            found, after = service.list_rules(after)
            rows += found
    if show.as_json():
        show.answer({"rules": [_as_data(each) for each in rows]})
        return
    show.table(
        _COLUMNS,
        (
            [
                each.name,
                "damaged" if each.damaged else each.effect,
                each.subjects,
                each.actions,
                each.names,
                each.networks,
                each.expires,
                each.note,
            ]
            for each in rows
        ),
    )


@rule.command("show")
@_NAME
@common_options
def show_(*, name: str) -> None:
    """Show a rule."""
    with client() as service:
        found = service.get_rule(name)
    if show.as_json():
        show.answer(_as_data(found))
    else:
        show.fields({what: value for what, value in _as_data(found).items() if value not in (None, "", [], False)})


@rule.command()
@click.argument("name", metavar="RULE")
@click.argument("effect", metavar="allow|deny", type=click.Choice(["allow", "deny"]))
@click.argument("subjects", metavar="SUBJECT[,SUBJECT]")
@click.argument("actions", metavar="ACTION[,ACTION]")
@click.argument("names", metavar="NAMES", nargs=-1, required=True)
@click.option(
    "--network", "networks", metavar="NETWORK", multiple=True, help="For clients from there alone; repeat it."
)
@click.option("--expires", metavar="TIME", help="Until when it is in force, as 2027-01-31T12:00:00Z.")
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@click.option("--replace", is_flag=True, help="Put it in the place of the rule of that name.")
@common_options
def add(
    *,
    name: str,
    effect: str,
    subjects: str,
    actions: str,
    names: tuple[str, ...],
    networks: tuple[str, ...],
    expires: str | None,
    note: str,
    replace: bool,
) -> None:
    """Add a rule. A subject is user:NAME, service:NAME, group:NAME, apikey:ID or '*', everybody.

    NAMES are patterns: in one, '*' stands for one segment, and '**' at its end for all below.
    """
    from strongroom.models.access import Right, Rule, check_rule
    from strongroom.storage_service.wire import NEW

    wanted = actions.split(",")
    if not set(wanted) <= set(Right):
        raise click.UsageError(f"an action is one of {', '.join(Right)}")
    made = Rule(
        effect="allow" if effect == "allow" else "deny",
        subjects=tuple(subjects.split(",")),
        actions=tuple(map(Right, wanted)),
        names=names,
        networks=networks,
        expires=expires,
        note=note,
    )
    check_rule(made)
    with client() as service:
        service.put_rule(name, made, etag=None if replace else NEW)
    show.done({"rule": name, "added": True}, f"rule {name} is in force")


@rule.command()
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def rm(*, name: str, yes: bool) -> None:
    """Remove a rule, at once and everywhere."""
    asking.sure(yes, f"remove the rule {name}", "nothing was removed")
    with client() as service:
        service.remove_rule(name)
    show.done({"rule": name, "removed": True}, f"removed rule {name}")


# All at once


@rule.command()
@common_options
def export() -> None:
    """Print all rules as one document in YAML."""
    with client() as service:
        document = service.export_rules()
    if show.as_json():
        show.answer({"document": document.text, "etag": document.etag})
    else:
        sys.stdout.write(document.text)


@rule.command()
@_FILE
@common_options
def diff(*, file: Path) -> None:
    """Show what a document would change."""
    text = _read(file)
    with client() as service:
        found = service.diff_rules(text)
    if show.as_json():
        show.answer(_diff_data(found))
    else:
        _tell_diff(found)


@rule.command("import")
@_FILE
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def import_(*, file: Path, yes: bool) -> None:
    """Put the rules of a document in the place of all that there are, or change nothing."""
    text = _read(file)
    with client(timeout=_LONG) as service:
        found = service.diff_rules(text)
        number = len(found.added) + len(found.removed) + len(found.changed)
        if number:
            if not show.as_json():
                _tell_diff(found)
            asking.sure(yes, f"change {number} rules so", "nothing was changed")
            service.import_rules(text, etag=found.etag)
    if show.as_json():
        show.answer(_diff_data(found))
    else:
        show.words(f"{number} rules changed" if number else "the rules are these already")


# Why


@rule.command()
@click.argument("words", metavar="[PRINCIPAL] ACTION NAME", nargs=-1, shell_complete=MEMBER)
@click.option("--from", "address", metavar="ADDRESS", help="As if it were asked from there.")
@click.option("--case", "case", metavar="REQUEST", help="Why a request was decided as it was, by its id.")
@common_options
def explain(*, words: tuple[str, ...], address: str | None, case: str | None) -> None:
    """Say why somebody, or whoever asks, may do ACTION to NAME, or may not, and what would change that.

    ACTION is get, list, put, create, modify, delete, or a right of an operator's.
    """
    if case is not None:
        if words or address is not None:
            raise click.UsageError("say --case REQUEST alone, or ACTION and NAME")
        _explain_case(case)
        return
    if len(words) not in (2, 3):
        raise click.UsageError("say ACTION and NAME, with a principal (user:NAME) before them or without")
    principal = words[0] if len(words) == 3 else None
    with client() as service:
        found = service.explain(*words[-2:], principal=principal, address=address)
    if show.as_json():
        show.answer(msgspec.to_builtins(found))
    else:
        _tell(found, words[-2])


def _explain_case(case: str) -> None:
    with client(timeout=_LONG) as service:
        found = service.get_cases(case)
    if show.as_json():
        show.answer({"cases": msgspec.to_builtins(found)})
        return
    for each in found:
        show.fields(_case_fields(each))
        if each.now is not None:
            show.words("As it is now:")
            _tell(each.now, each.action)


def _case_fields(case: "CaseInfo") -> dict[str, object]:
    said = {
        "time": case.time,
        "principal": case.principal,
        "action": case.action,
        "name": case.name,
        "decision": case.decision,
        "from": case.address,
        "groups": case.groups,
        "needed": case.rights,
        "rules that spoke": case.rules,
    }
    return {what: value for what, value in said.items() if value not in (None, [])}


@rule.command("who-can")
@click.argument("action", metavar="ACTION")
@click.argument("name", metavar="NAME")
@common_options
def who_can(*, action: str, name: str) -> None:
    """List who can do ACTION to NAME, beside the service itself."""
    with client() as service:
        found = service.who_can(action, name)
    if show.as_json():
        show.answer({"principals": msgspec.to_builtins(found)})
        return
    rows = ([each.principal, each.rules or "its own reach", each.networks, each.barred] for each in found)
    show.table(("principal", "by", "only from", "not from"), rows)


@rule.command("what-can")
@click.argument("principal", metavar="[PRINCIPAL]", required=False, shell_complete=MEMBER)
@common_options
def what_can(*, principal: str | None) -> None:
    """List what somebody, or whoever asks, can do by rules."""
    with client() as service:
        found = service.what_can(principal)
    if show.as_json():
        show.answer(msgspec.to_builtins(found))
        return
    rows = [("allow", each) for each in found.allowed] + [("deny", each) for each in found.denied]
    show.table(
        ("effect", "names", "rights", "networks", "expires"),
        ([effect, each.names, each.rights, each.networks, each.expires] for effect, each in rows),
    )


@rule.command("try")
@_FILE
@click.option("--since", default="7d", metavar="DURATION", help="How far back in the audit log: 1h, 7d, 4w [7d].")
@common_options
def try_(*, file: Path, since: str) -> None:
    """Show which decisions on record the rules of a document would make otherwise: exit code 7 if there are any."""
    text = _read(file)
    with client(timeout=_LONG) as service:
        found = service.try_rules(text, since)
    if show.as_json():
        show.answer(msgspec.to_builtins(found))
    else:
        _flips("would newly be denied", found.denied)
        _flips("would newly be allowed", found.allowed)
        if found.more:
            show.words(f"and {found.more} decisions more that are not shown")
        show.words(f"{found.tried} decisions tried")
    if found.denied or found.allowed:
        raise click.exceptions.Exit(DIFFERS)
    if not found.complete:
        show.note("strongroom: not all that is on record was tried: say a shorter time with --since")
        raise click.exceptions.Exit(FAILED)


def _flips(heading: str, found: "Sequence[FlipInfo]") -> None:
    if not found:
        return
    if not show.as_raw():
        show.line(f"{heading}:", "bold")
    show.table(
        ("principal", "rights", "name", "times", "last", "rules"),
        ([each.principal, each.rights, each.name, each.times, _moment(each.last), each.rules] for each in found),
        "red" if "denied" in heading else "yellow",
    )


# Telling


def _moment(text: str) -> str:
    """Return a moment to the second, as people look for it."""
    return f"{text[:19]}Z"


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        pass
    raise click.UsageError("a document of rules is text in UTF-8")


def _as_data(found: "RuleInfo") -> dict[str, Any]:
    return dict(msgspec.to_builtins(found))


def _diff_data(found: "RulesDiff") -> dict[str, Any]:
    return dict(msgspec.to_builtins(found))


def _tell_diff(found: "RulesDiff") -> None:
    for sign, style, names in (("+", "green", found.added), ("-", "red", found.removed)):
        for name in names:
            show.line(f"{sign} {name}", style)
    for name, members in found.changed.items():
        show.line(f"~ {name}", "yellow")
        for each in members:
            show.line(f"    {each.member}: {_side(each.before)} -> {_side(each.after)}")
    if not (found.added or found.removed or found.changed):
        show.line("nothing would change")


def _side(said: "str | list[str] | None") -> str:
    return ", ".join(said) if isinstance(said, list) else said or "(none)"


def _tell(found: "ExplanationInfo", action: str) -> None:
    show.words(f"{found.principal} {'may' if found.allowed else 'may not'} {action} {found.name}")
    show.table(("decider", "says"), ([each.decider, _SAYS[each.says]] for each in found.deciders))
    if found.matched:
        rows = ([each.rule, each.effect, each.subjects, each.rights, each.names] for each in found.matched)
        show.table(("rule", "effect", "subjects", "rights", "names"), rows)
    if not found.allowed and found.nearly:
        show.table(("rule", "effect", "would fit but for its"), ([n.rule, n.effect, n.lacks] for n in found.nearly))
    if not found.allowed and found.remedy is not None:
        _tell_remedy(found, found.remedy)


def _tell_remedy(found: "ExplanationInfo", remedy: "RemedyInfo") -> None:
    if not remedy.possible:
        show.words("no change of rules would allow it")
        return
    for name, ways in remedy.denies.items():
        ways_told = [
            "remove it" if each.member is None else f"take {', '.join(each.without)} out of its {each.member}"
            for each in ways
        ]
        show.words(f"the rule {name} denies it: {', or '.join(ways_told)}")
    grants = [] if remedy.add is None else [_command(remedy.add)]
    grants += [f"strongroom group member add {group} {found.principal}" for group in remedy.join]
    if grants:
        show.words("to allow it: " + "; or: ".join(grants))


def _command(added: "RuleBody") -> str:
    """Return the command that adds a rule; its names are those of one act, which no shell reads otherwise."""
    said = added.subjects[0], ",".join(added.actions), added.names[0]
    return f"strongroom rule add RULE {added.effect} {' '.join(said)}"
