"""``strongroom group``: who is with whom, and who says so."""

from typing import TYPE_CHECKING, Any, Final

import click

from strongroom.deploy.cli import asking, show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import GROUP, MEMBER
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.wire.access import GroupInfo

_COLUMNS: Final = ("name", "members", "managers", "created", "note")
_MEMBER_COLUMNS: Final = ("member", "role")

_NAME: Final = click.argument("name", metavar="GROUP", shell_complete=GROUP)
_MEMBER: Final = click.argument("member", metavar="user:NAME|service:NAME|apikey:ID", shell_complete=MEMBER)


@click.group(cls=Noun)
def group() -> None:
    """Make groups, and say who is in them."""


@group.command()
@click.argument("name", metavar="GROUP")
@click.option("--note", default="", metavar="TEXT", help="What is to be remembered of it.")
@common_options
def add(*, name: str, note: str) -> None:
    """Make a group without members."""
    with client() as service:
        service.add_group(name, note=note)
    show.done({"group": name, "added": True}, f"added group {name}")


@group.command()
@common_options
def ls() -> None:
    """List groups."""
    with client() as service:
        found = service.list_groups()
    if show.as_json():
        show.answer({"groups": [_as_data(each) for each in found]})
        return
    rows = (
        [
            each.name,
            "damaged" if each.damaged else len(each.members),
            sorted(member for member, role in each.members.items() if role == "manager"),
            each.created,
            each.note,
        ]
        for each in found
    )
    show.table(_COLUMNS, rows)


@group.command("show")
@_NAME
@common_options
def show_(*, name: str) -> None:
    """Show a group and its members."""
    with client() as service:
        found = service.get_group(name)
    if show.as_json():
        show.answer(_as_data(found))
        return
    show.fields({"group": found.name, "created": found.created, "by": found.created_by, "note": found.note})
    show.table(_MEMBER_COLUMNS, ([member, str(role)] for member, role in sorted(found.members.items())))


@group.command()
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def rm(*, name: str, yes: bool) -> None:
    """Remove a group: nobody is in it any more. Its name is never given again."""
    asking.sure(yes, f"remove the group {name} for good: rules that name it mean nobody", "nothing was removed")
    with client() as service:
        service.remove_group(name)
    show.done({"group": name, "removed": True}, f"removed group {name}")


@group.group(cls=Noun)
def member() -> None:
    """Say who is in a group."""


@member.command("add")
@_NAME
@_MEMBER
@click.option("--manager", is_flag=True, help="It adds and removes members.")
@common_options
def member_add(*, name: str, member: str, manager: bool) -> None:
    """Put somebody into a group, or give it another role there."""
    with client() as service:
        service.add_member(name, member, manager=manager)
    role = "manager" if manager else "member"
    show.done({"group": name, "member": member, "role": role}, f"{member} is a {role} of {name}")


@member.command("rm")
@_NAME
@_MEMBER
@common_options
def member_rm(*, name: str, member: str) -> None:
    """Take somebody out of a group."""
    with client() as service:
        service.remove_member(name, member)
    show.done({"group": name, "member": member, "removed": True}, f"{member} is in {name} no more")


def _as_data(found: "GroupInfo") -> dict[str, Any]:
    return {
        "name": found.name,
        "members": {each: str(role) for each, role in found.members.items()},
        "created": found.created,
        "created_by": found.created_by,
        "note": found.note,
        "damaged": found.damaged,
    }
