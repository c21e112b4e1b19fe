"""Where the command takes secrets from: standard input, a file, a terminal without echo, or an editor; never argv."""

import getpass
import os
import secrets
import shlex
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from strongroom.storage_service.wire import MAX_SECRET

_ALPHABET: Final = string.ascii_letters + string.digits


def is_typed(file: str | None) -> bool:
    """Whether somebody is asked for what *file* says, or does not say, where to read."""
    return file is None and sys.stdin.isatty()


def read(file: str | None, what: str) -> bytes:
    """Return the secret from *file*, or from standard input for None and "-".

    A terminal is asked without echo; anything else is read to its end.

    Raises:
        UsageError: the file cannot be read, or it is more than a secret may be.
    """
    if is_typed(file):
        return getpass.getpass(f"{what}: ").encode()
    try:
        if file is None or file == "-":
            content = sys.stdin.buffer.read(MAX_SECRET + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(MAX_SECRET + 1)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    if len(content) > MAX_SECRET:
        raise click.UsageError(f"{what}: over {MAX_SECRET // 1024} KiB")
    return content


def one_line(content: bytes) -> bytes:
    """Return *content* without the line break at its end if it is a single line; else as it is.

    That break is ``echo``'s or the editor's, and no password has it. A key of several lines ends in one that it needs:
    without it an Ed25519 key is not a key to ``ssh``.
    """
    line = content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content
    return content if b"\n" in line or b"\r" in line else line


def generated(length: int) -> str:
    """Return so many random letters and digits, of nearly six bits each."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def edit(content: bytes) -> bytes | None:
    """Return *content* as the user's editor leaves it, None if it was left as it is.

    The editor gets a file of mode 0600 in memory (/dev/shm) where there is one, which is emptied and removed after.

    Raises:
        UsageError: the editor cannot be run or failed.
    """
    command = _editor()
    shared = Path("/dev/shm")  # noqa: S108  # a directory of mode 0700 of our own is made in it
    with tempfile.TemporaryDirectory(prefix="strongroom-", dir=shared if os.access(shared, os.W_OK) else None) as name:
        path = Path(name) / "secret"
        path.touch(mode=0o600)
        path.write_bytes(content)
        try:
            ended = subprocess.run([*command, str(path)], check=False)  # noqa: S603  # the user's own editor
        except OSError as error:
            raise click.UsageError(
                f"the editor {command[0]} cannot be run: {error.strerror}; set EDITOR to one that is there, as in:"
                " EDITOR=nano"
            ) from None
        else:
            if ended.returncode:
                raise click.UsageError(
                    f"the editor {command[0]} ended with code {ended.returncode}; nothing was changed"
                )
            edited = _edited(path, command[0])
        finally:
            path.write_bytes(b"")
    return None if edited == content else edited


def _editor() -> list[str]:
    """Return the command of the user's editor.

    Raises:
        UsageError: what the variable says is no command.
    """
    name = next((name for name in ("VISUAL", "EDITOR") if os.environ.get(name, "").strip()), "")
    try:
        return shlex.split(os.environ[name]) if name else ["vi"]
    except ValueError:  # a quotation mark without another
        raise click.UsageError(f"{name} is not a command: a quotation mark in it is not closed") from None


def _edited(path: Path, editor: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(
            f"what the editor {editor} left cannot be read: {error.strerror}; nothing was changed"
        ) from None
