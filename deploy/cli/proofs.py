"""What somebody proves itself with, as it is said on a command line; passwords and codes never stand there."""

import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from strongroom.deploy.cli.secret.source import one_line

if TYPE_CHECKING:
    from strongroom.models.secret import Secret
    from strongroom.storage_service.client import NewCredential

C = TypeVar("C", bound=Callable[..., Any])

_MAX_FILE: Final = 16 * 1024  # bytes of a public key
_MAX_TYPED: Final = 4 * 1024  # bytes on standard input


class Said(NamedTuple):
    """What the options say."""

    keys: tuple[str, ...] = ()
    password: bool = False
    certificates: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """How many credentials they are."""
        return len(self.keys) + self.password + len(self.certificates) + len(self.uids)


def proof_options(command: C) -> C:
    """Give *command* the options, which arrive as `keys`, `password`, `certificates` and `uids`."""
    for option in (
        click.option("--uid", "uids", type=click.IntRange(0), multiple=True, help="A user of this machine, by number."),
        click.option(
            "--certificate",
            "certificates",
            metavar="URI|SHA256:…",
            multiple=True,
            help="A client certificate, by a URI in it or its fingerprint.",
        ),
    ):
        command = option(command)
    return own_proof_options(command)


def own_proof_options(command: C) -> C:
    """Give *command* the options for what one gives oneself without a right, which arrive as `keys` and `password`."""
    for option in (
        click.option("--password", is_flag=True, help="A password: asked for, or a line of standard input."),
        click.option("--key", "keys", metavar="FILE", multiple=True, help="A public key, as ssh-keygen writes it."),
    ):
        command = option(command)
    return command


def credentials(said: Said, password: "Secret | None" = None) -> "list[NewCredential]":
    """Return what *said* says; a *password* that was read already is not read again.

    Raises:
        UsageError: a file cannot be read, or what is typed twice differs.
    """
    from strongroom.storage_service.client import NewCredential

    made = [NewCredential("access-key", _public_key(file)) for file in said.keys]
    if said.password:
        made.append(NewCredential("password", password or ask_password()))
    made += [NewCredential("certificate", each) for each in said.certificates]
    return made + [NewCredential("process", str(uid)) for uid in said.uids]


def ask_password() -> "Secret":
    """Return a password: typed twice without echo at a terminal, else the one line of standard input.

    Raises:
        UsageError: there is another number of lines, or what is typed twice differs.
    """
    from strongroom.models.secret import Secret

    if not sys.stdin.isatty():
        (password,) = typed_lines(1, "the password")
        return password
    first, second = hidden("Password"), hidden("The same once more")
    if first != second:
        raise click.UsageError("what was typed twice is not the same; nothing was done")
    return Secret(first)


def ask_code(*, password: bool) -> "tuple[Secret, Secret | None]":
    """Return the code that somebody was told, and with *password* a new one: typed, or lines of standard input.

    Raises:
        UsageError: there are other lines than these.
    """
    from strongroom.models.secret import Secret

    if sys.stdin.isatty():
        code = Secret(hidden("Code").strip())
        return code, ask_password() if password else None
    lines = typed_lines(1 + password, "the code, and then the password" if password else "the code")
    return Secret(lines[0].reveal().strip()), lines[1] if password else None


def typed_lines(count: int, what: str) -> "list[Secret]":
    """Return so many lines of standard input; *what* they are stands in the error.

    Raises:
        UsageError: there are more or fewer, or they are no text.
    """
    from strongroom.models.secret import Secret

    content = sys.stdin.buffer.read(_MAX_TYPED + 1)
    try:
        lines = one_line(content).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        lines = []
    if len(content) > _MAX_TYPED or len(lines) != count or not all(lines):
        raise click.UsageError(f"standard input is {what}, a line each, and nothing else")
    return [Secret(line.removesuffix("\r")) for line in lines]


def hidden(prompt: str) -> str:
    """Return what is typed without echo at *prompt*."""
    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError:
        raise click.Abort from None


def _public_key(file: str) -> str:
    try:
        with Path(file).expanduser().open("rb") as opened:
            content = opened.read(_MAX_FILE + 1)
        text = content.decode("ascii")
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise click.UsageError(f"{file}: that is not a public key") from None
    if len(content) > _MAX_FILE:
        raise click.UsageError(f"{file}: that is longer than a public key can be")
    if "PRIVATE KEY" in text:  # which is not to leave its holder
        raise click.UsageError(f"{file}: that is a private key; the public one is in the file that ends in .pub")
    return text
