"""What can be done with a user and with a service alike: each verb once, under both nouns.

A verb knows by the noun that it was called through which of the two is meant.
"""

from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from strongroom.deploy.cli import asking, show
from strongroom.deploy.cli.common import client, common_options, places, stranger
from strongroom.deploy.cli.completion import PRINCIPALS
from strongroom.deploy.cli.proofs import Said, ask_code, credentials, own_proof_options, proof_options
from strongroom.deploy.cli.words import Noun, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from strongroom.models.steps import Option
    from strongroom.storage_service.client import AddedPrincipal
    from strongroom.storage_service.wire.access import CredentialInfo, PrincipalInfo

_COLUMNS: Final = ("name", "state", "groups", "credentials", "created", "note")
_KEY_COLUMNS: Final = ("id", "name", "kind", "shown", "created", "expires", "used")
_PUBLIC: Final = ("fingerprint", "uri", "uid", "hash")  # what people know a credential by


def noun(kind: str, told: str) -> Noun:
    """Return the noun *kind*, which is *told* so in its help, with every verb."""
    made = Noun(kind, help=told)
    for verb in (add, ls, show_, rm, disable, enable, setup, key):
        made.add_command(verb)
    return made


def _kind(ctx: click.Context | None = None) -> str:
    """Return the noun that the verb was called through."""
    walked = ctx or click.get_current_context()
    while walked.parent is not None and walked.command.name not in PRINCIPALS:
        walked = walked.parent
    return str(walked.command.name)


def _principal(name: str) -> str:
    return f"{_kind()}:{name}"


def _complete(ctx: click.Context, parameter: click.Parameter, typed: str) -> "list[CompletionItem[Any]]":
    return PRINCIPALS[_kind(ctx)](ctx, parameter, typed)


_NAME: Final = click.argument("name", metavar="NAME", shell_complete=_complete)
_NEW_NAME: Final = click.argument("name", metavar="NAME")


@click.command(cls=Verb)
@_NEW_NAME
@click.option("--admin", is_flag=True, help="It may do everything.")
@click.option("--note", default="", metavar="TEXT", help="What is to be remembered of it.")
@click.option("--window", type=click.IntRange(30, 7 * 24 * 3600), metavar="SECONDS", help="How long its code is good.")
@proof_options
@common_options
def add(*, name: str, admin: bool, note: str, window: int | None, **said: Any) -> None:
    """Add one. Without a credential, print a code, this once, with which it sets up its first one itself.

    A code is good for 300 seconds, that of the first administrator for 900.
    """
    principal = _principal(name)
    given = credentials(Said(**said))
    with client() as service:
        made = service.add_principal(principal, given, admin=admin, note=note, window=window)
    setup_by = _setup_by(principal)
    data = {
        "principal": made.principal,
        "administrator": made.administrator,
        "first": made.first,
        "code": made.code and made.code.reveal(),
        "expires": made.expires,
    }
    if show.as_json():
        show.answer(data)
        return
    show.fields({what: value for what, value in data.items() if value is not None and what != "first"})
    _tell(made, setup_by)


def _tell(made: "AddedPrincipal", setup_by: str) -> None:
    """Tell people what is to be done next."""
    if made.code is not None:
        show.note(
            "This is the only time that the code is shown. Tell it to nobody but whom it is for, who proves with it, "
            f"until it expires, who they are: {setup_by}"
        )
    if made.first:
        begin = f"{made.principal} is the first administrator, and may do everything"
        then = "" if made.code is None else " once it is set up"
        show.note(show.advice(f"{begin}{then}. Add the others without --admin, and let groups and rules say what they "
                              "may do", "user add"))  # fmt: skip


def _setup_by(principal: str) -> str:
    """Return the command with which whoever has the code sets itself up; what leads there is no file of ours."""
    from strongroom.deploy.cli import logged_in
    from strongroom.deploy.steps import Lead, command
    from strongroom.models.steps import Step

    kind, _, name = principal.partition(":")
    address = logged_in.address(places())
    options: dict[str, Option] = {"id": name, "key": "FILE"}
    if address.socket is not None:
        options["socket"] = str(address.socket)
    typed = command(Step("", "user setup" if kind == "user" else "service setup", options), Lead())
    return typed if address.socket is not None else f"STRONGROOM_URL={address.url} {typed}"


@click.command(cls=Verb)
@common_options
def ls() -> None:
    """List them all: whether each may come in, its groups and how many credentials it has."""
    rows: list[PrincipalInfo] = []
    kind = _kind()
    with client() as service:
        after: str | None = ""
        while after is not None:
            found, after = service.list_principals(kind, after)
            rows += found
    if show.as_json():
        show.answer({f"{kind}s": [_as_data(each) for each in rows]})
        return
    show.table(
        _COLUMNS,
        (
            [_name(each), each.state, sorted(each.groups), len(each.credentials), each.created, each.note]
            for each in rows
        ),
    )


@click.command("show", cls=Verb)
@_NAME
@common_options
def show_(*, name: str) -> None:
    """Show one: its groups, and its credentials by what is public of them."""
    with client() as service:
        found = service.get_principal(_principal(name))
    if show.as_json():
        show.answer(_as_data(found))
        return
    roles = [group if role == "member" else f"{group} ({role})" for group, role in sorted(found.groups.items())]
    show.fields(
        {
            "principal": found.principal,
            "state": found.state,
            **({"setup until": found.setup_until} if found.setup_until else {}),
            "groups": roles,
            "created": found.created,
            "by": found.created_by,
            **({"note": found.note} if found.note else {}),
        }
    )
    if found.credentials:
        _keys(found.credentials)


@click.command(cls=Verb)
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def rm(*, name: str, yes: bool) -> None:
    """Remove one, at once and everywhere. Its name is never given to anybody again."""
    principal = _principal(name)
    asking.sure(yes, f"remove {principal} for good: nobody is ever called so again", "nothing was removed")
    with client() as service:
        service.remove_principal(principal)
    show.done({"principal": principal, "removed": True}, f"removed {principal}")


@click.command(cls=Verb)
@_NAME
@common_options
def disable(*, name: str) -> None:
    """Shut one out, at once and everywhere; it keeps its name, its groups and its credentials."""
    _set_disabled(_principal(name), disabled=True)


@click.command(cls=Verb)
@_NAME
@common_options
def enable(*, name: str) -> None:
    """Let one in again that was shut out."""
    _set_disabled(_principal(name), disabled=False)


def _set_disabled(principal: str, *, disabled: bool) -> None:
    with client() as service:
        service.disable_principal(principal, disabled=disabled)
    text = f"{principal} is shut out" if disabled else f"{principal} may come in"
    show.done({"principal": principal, "disabled": disabled}, text)


@click.command(cls=Verb)
@_NEW_NAME
@own_proof_options
@common_options
def setup(*, name: str, **said: Any) -> None:
    """Set up one, by whoever was told its code, with the first credential: that takes no other credentials.

    It is a key or a password: a certificate, or a process's user, is given by whoever may administer the name. The
    code, and a password, are asked for at a terminal, and else read from standard input, a line each.
    """
    wanted = Said(**said)
    if wanted.number != 1:
        raise click.UsageError("say one credential: --key FILE or --password")
    principal = _principal(name)
    if not wanted.password:
        credentials(wanted)  # a file that cannot be read is told before the code is typed
    code, password = ask_code(password=wanted.password)
    (credential,) = credentials(wanted, password)
    from strongroom.storage_service.errors import Denied

    with stranger() as service:
        try:
            service.set_up(principal, code, credential)
        except Denied:
            raise Denied(
                f"that code sets up no {_kind()} of that name, or no longer: whoever gave it can give another"
            ) from None
    show.done({"principal": principal, "set_up": True}, f"{principal} is set up")


@click.group(cls=Noun)
def key() -> None:
    """Give and take what one proves itself with: keys, passwords, certificates, a process's user."""


@key.command("add")
@_NAME
@click.option("--name", "called", default="", metavar="NAME", help="What the credential is to be called.")
@click.option("--expires", metavar="TIME", help="From when on it is worth nothing, as 2027-01-31T12:00:00Z.")
@proof_options
@common_options
def key_add(*, name: str, called: str, expires: str | None, **said: Any) -> None:
    """Give one more credential."""
    wanted = Said(**said)
    if wanted.number != 1:
        raise click.UsageError("say one credential: --key FILE, --password, --certificate or --uid")
    principal = _principal(name)
    (credential,) = credentials(wanted)
    with client() as service:
        made = service.add_credential(principal, credential._replace(name=called, expires=expires))
    if show.as_json():
        show.answer({"principal": principal, **_key_data(made)})
    else:
        _keys([made])


@key.command("ls")
@_NAME
@common_options
def key_ls(*, name: str) -> None:
    """List credentials, by what is public of them."""
    with client() as service:
        found = service.get_principal(_principal(name))
    if show.as_json():
        show.answer({"principal": found.principal, "credentials": [_key_data(each) for each in found.credentials]})
    else:
        _keys(found.credentials)


@key.command("rm")
@_NAME
@click.argument("credential", metavar="CREDENTIAL")
@common_options
def key_rm(*, name: str, credential: str) -> None:
    """Take a credential away, by its id or its name; what was let in with it is shut out at once."""
    principal = _principal(name)
    with client() as service:
        service.remove_credential(principal, credential)
    show.done(
        {"principal": principal, "credential": credential, "removed": True},
        f"{principal} is known by {credential} no more",
    )


def _name(found: "PrincipalInfo") -> str:
    return found.principal.partition(":")[2]


def _as_data(found: "PrincipalInfo") -> dict[str, Any]:
    return {
        "name": _name(found),
        "state": found.state,
        "groups": {group: str(role) for group, role in found.groups.items()},
        "credentials": [_key_data(each) for each in found.credentials],
        "created": found.created,
        "created_by": found.created_by,
        "note": found.note,
        "setup_until": found.setup_until,
    }


def _key_data(each: "CredentialInfo") -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "kind": each.kind,
        "shown": dict(each.shown),
        "created": each.created,
        "expires": each.expires,
        "used": each.used,
    }


def _keys(found: "Sequence[CredentialInfo]") -> None:
    show.table(
        _KEY_COLUMNS,
        (
            [
                each.id,
                each.name,
                each.kind,
                next((each.shown[what] for what in _PUBLIC if what in each.shown), ""),
                each.created,
                each.expires,
                each.used,
            ]
            for each in found
        ),
    )
