"""The options that every command takes, and the service that they lead to."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from strongroom.deploy.cli.words import BadForm
from strongroom.deploy.places import CLIENT, DEFAULT_HOME, PREFIX
from strongroom.deploy.steps import Lead

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient

C = TypeVar("C", bound=Callable[..., Any])

RETRIES: Final = 3  # within half a second: who types a command is told at once that nobody listens
FORM: Final = ("-o", "--form")  # of these, -o names something else, too, where a source has options
OUTPUT: Final = f"{PREFIX}OUTPUT"  # the variable
_PLACES: Final = ("HOME", "CLIENT", "SOCKET", "URL")
_CREDENTIALS: Final = ("API_ID", "API_KEY")


class Form(StrEnum):
    """How an answer is printed."""

    TABLE = "table"  # for people, at a terminal and through a pipe
    JSON = "json"  # one document on one line
    RAW = "raw"  # a record a line, its fields divided by tabs, without headings


@dataclass(slots=True)
class Common:
    """The options given on the command line, before or after the noun; the later one counts."""

    home: Path | None = None
    socket: Path | None = None
    url: str = ""
    ca: Path | None = None
    config: Path | None = None
    form: Form | None = None
    no_color: bool = False
    login: str = ""  # whose token is shown, kept from a login
    offline: bool = False  # the command does what it does itself: what is said of a running service helps nobody

    @property
    def as_json(self) -> bool:
        """Whether the command line asks for JSON: what the value of a secret is written as, too."""
        return self.form is Form.JSON

    @property
    def answers_as(self) -> Form:
        """How answers and errors are printed: as the command line says, else a variable, else for people."""
        return self.form or _form_said(os.environ.get(OUTPUT, "")) or Form.TABLE

    @property
    def lead(self) -> Lead:
        """What leads another command to the same service."""
        return Lead(self.home, self.socket, self.config, self.ca, self.url)


class _Named(click.Path):
    """A path that has a name: Python takes an empty one for the directory where it stands."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; refuse an empty one, as of a variable of the shell that is not set."""
        if value == "":
            raise BadForm("is empty", ctx, param)
        return super().convert(value, param, ctx)


def common_options(command: C) -> C:
    """Give *command* the options; what they say lands in the context's `Common`."""
    # Who may not read one is told so by whoever opens it, with the name of the group or the directory in the way.
    path = _Named(path_type=Path, readable=False)
    for names, settings in reversed(
        (
            (("--home",), {"type": path, "metavar": "DIR", "help": "The home of the service."}),
            (("--socket",), {"type": path, "metavar": "PATH", "help": "The service's unix socket."}),
            (("--url",), {"metavar": "URL", "help": "The service's HTTP proxy, in the place of its socket."}),
            (("--ca",), {"type": path, "metavar": "FILE", "help": "Who must have signed an https URL's certificate."}),
            (
                FORM,
                {
                    "type": click.Choice([str(form) for form in Form]),
                    "metavar": "FORM",
                    "help": "Print a table, json or raw [table].",
                },
            ),
            (("--json",), {"is_flag": True, "help": "Print JSON, as -o json does."}),
            (("--no-color",), {"is_flag": True, "help": "Print without colour (as NO_COLOR does)."}),
        )
    ):
        option = click.option(*names, expose_value=False, callback=_keep, **settings)
        command = option(command)
    return command


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    said = common(ctx)
    match parameter.name:
        case _ if not value:
            pass
        case "json":
            said.form = Form.JSON
        case "form":
            said.form = Form(value)
        case name:
            setattr(said, str(name), value)


def forms_apart(ctx: click.Context, _: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was said with ``-o`` where it names something else, too, without the forms of an answer."""
    for each in given:
        if each in set(Form):
            common(ctx).form = Form(each)
    return tuple(each for each in given if each not in set(Form))


def _form_said(text: str) -> Form | None:
    return Form(text) if text in set(Form) else None


def check_form() -> None:
    """Refuse a variable that says no form, before anything is done that is then told in none.

    Raises:
        UsageError: it says none.
    """
    text = os.environ.get(OUTPUT, "")
    if text and _form_said(text) is None:
        raise click.UsageError(f"{OUTPUT} is one of {', '.join(Form)}")


def common(ctx: click.Context | None = None) -> Common:
    """Return what was said."""
    return (ctx or click.get_current_context()).find_root().ensure_object(Common)


def home_or_default() -> Path:
    """Return the home that was said, or the default one."""
    said = common().home or os.environ.get(f"{PREFIX}HOME")
    return _expanded(Path(said or DEFAULT_HOME)).absolute()


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # HOME is not set, and the user is not in /etc/passwd
        raise click.UsageError(
            f"this user has no home directory: say --home DIR, or set {PREFIX}HOME", click.get_current_context()
        ) from None


def client(timeout: float = 10.0) -> "StorageClient":
    """Return a client of the service that was said; *timeout* is the seconds that one call may take.

    It shows an API key that was said, or else that of a ``client.json`` that this user can read and that names this
    address; without either, the token of a login there.

    Raises:
        ConfigurationError: nothing leads to a service, or there is nothing to show it.
        NotAuthenticated: the login has expired.
    """
    from strongroom.storage_service.client import StorageClient
    from strongroom.storage_service.errors import NoCredentials

    environ = places()
    try:
        return StorageClient.from_environment(environ, timeout=timeout, retries=RETRIES)
    except NoCredentials as error:
        from strongroom.deploy.cli import logged_in

        found = logged_in.client(environ, timeout, RETRIES)
        if found is None:
            from strongroom.models.steps import Step

            there = not isinstance(error.__cause__, FileNotFoundError)  # a home is
            raise error.advising(*error.next, *([Step("or log in", "login")] if there else [])) from None
        service, common().login = found
        return service


def stranger(timeout: float = 10.0) -> "StorageClient":
    """Return a client of the service that was said, which shows it nothing: for what takes no credentials.

    Raises:
        ConfigurationError: nothing leads to a service.
    """
    from strongroom.deploy.cli import logged_in

    return logged_in.of(logged_in.address(places()), timeout, RETRIES)


def client_directory() -> Path:
    """Return the directory of the ``client.json`` that was said, or of the one in the default home."""
    said = places()
    file = said.get(f"{PREFIX}CLIENT")
    return Path(file).parent if file else Path(said.get(f"{PREFIX}HOME") or home_or_default())


def places() -> dict[str, str]:
    """Return the environment as flags change it, so that it leads to the service: else to the one in the default home.

    Raises:
        ConfigurationError: nothing leads to a service, or a variable means nothing.
    """
    from strongroom.storage_service import variables
    from strongroom.storage_service.errors import ConfigurationError

    said = common()
    environ = dict(os.environ)
    variables.check(environ)

    def set_aside(*names: str) -> None:
        for name in names:
            environ.pop(f"{PREFIX}{name}", None)
            environ.pop(f"{PREFIX}{name}_FILE", None)

    if said.home is not None:
        set_aside(*_PLACES, *_CREDENTIALS, "CA")  # a flag comes before variables
        environ[f"{PREFIX}HOME"] = str(said.home)
    if said.socket is not None and said.url:
        raise click.UsageError("say --socket or --url: each says where the service is", click.get_current_context())
    if said.socket is not None:
        set_aside("SOCKET", "URL")  # not CLIENT, which also says who asks
        environ[f"{PREFIX}SOCKET"] = str(said.socket)
    elif said.url:
        set_aside("SOCKET", "URL")
        environ[f"{PREFIX}URL"] = said.url
    elif not any(environ.get(f"{PREFIX}{name}{suffix}") for name in _PLACES for suffix in ("", "_FILE")):
        home = _expanded(DEFAULT_HOME)
        if not (home / CLIENT).exists():
            raise ConfigurationError("say where the service is: --home DIR; or start one: strongroom up --home DIR")
        environ[f"{PREFIX}HOME"] = str(home)
    if said.ca is not None:
        environ[f"{PREFIX}CA"] = str(said.ca)
    return environ
