"""The options that every command takes, and the service that they lead to."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from strongroom.deploy.places import CLIENT, DEFAULT_HOME, PREFIX
from strongroom.deploy.steps import Lead

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient

C = TypeVar("C", bound=Callable[..., Any])

RETRIES: Final = 3  # within half a second: who types a command is told at once that nobody listens
_PLACES: Final = ("HOME", "CLIENT", "SOCKET", "URL")
_CREDENTIALS: Final = ("API_ID", "API_KEY")


@dataclass(slots=True)
class Common:
    """The options given on the command line, before or after the noun; the later one counts."""

    home: Path | None = None
    socket: Path | None = None
    config: Path | None = None
    as_json: bool = False
    no_color: bool = False

    @property
    def lead(self) -> Lead:
        """What leads another command to the same service."""
        return Lead(self.home, self.socket, self.config)


def common_options(command: C) -> C:
    """Give *command* the options; what they say lands in the context's `Common`."""
    # Who may not read one is told so by whoever opens it, with the name of the group or the directory in the way.
    path = click.Path(path_type=Path, readable=False)
    for name, settings in reversed(
        (
            ("--home", {"type": path, "metavar": "DIR", "help": "The home of the service."}),
            ("--socket", {"type": path, "metavar": "PATH", "help": "The service's unix socket."}),
            ("--json", {"is_flag": True, "help": "Print JSON, also to a terminal."}),
            ("--no-color", {"is_flag": True, "help": "Print without colour (as NO_COLOR does)."}),
        )
    ):
        command = click.option(name, expose_value=False, callback=_keep, **settings)(command)  # type: ignore[arg-type]
    return command


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        attribute = {"json": "as_json"}.get(str(parameter.name), str(parameter.name))
        setattr(common(ctx), attribute, value)


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

    Raises:
        ConfigurationError: nothing leads to a service.
    """
    from strongroom.storage_service.client import StorageClient

    return StorageClient.from_environment(places(), timeout=timeout, retries=RETRIES)


def client_directory() -> Path:
    """Return the directory of the ``client.json`` that was said, or of the one in the default home."""
    said = places()
    file = said.get(f"{PREFIX}CLIENT")
    return Path(file).parent if file else Path(said.get(f"{PREFIX}HOME") or home_or_default())


def places() -> dict[str, str]:
    """Return the environment as flags change it, so that it leads to the service: else to the one in the default home.

    Raises:
        ConfigurationError: nothing leads to a service.
    """
    from strongroom.storage_service.errors import ConfigurationError

    said = common()
    environ = dict(os.environ)

    def set_aside(*names: str) -> None:
        for name in names:
            environ.pop(f"{PREFIX}{name}", None)
            environ.pop(f"{PREFIX}{name}_FILE", None)

    if said.home is not None:
        set_aside(*_PLACES, *_CREDENTIALS)  # a flag comes before variables
        environ[f"{PREFIX}HOME"] = str(said.home)
    if said.socket is not None:
        set_aside("SOCKET", "URL")  # not CLIENT, which also says who asks
        environ[f"{PREFIX}SOCKET"] = str(said.socket)
    elif not any(environ.get(f"{PREFIX}{name}{suffix}") for name in _PLACES for suffix in ("", "_FILE")):
        home = _expanded(DEFAULT_HOME)
        if not (home / CLIENT).exists():
            raise ConfigurationError("say where the service is: --home DIR; or start one: strongroom up --home DIR")
        environ[f"{PREFIX}HOME"] = str(home)
    return environ
