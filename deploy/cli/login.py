"""``strongroom login``: an SSH key signs a challenge, and the token that comes of it is kept for the next commands."""

import os
import pwd
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import RETRIES, common_options, places
from strongroom.deploy.cli.words import Verb

if TYPE_CHECKING:
    from strongroom.storage_service.client import LoggedIn, StorageClient
    from strongroom.storage_service.client.login import InAgent, Signs
    from strongroom.storage_service.client.login_key import FileKey

TIMES: Final = 3  # a passphrase is asked for, as ssh does
USUAL: Final = ("id_ed25519", "id_ecdsa", "id_rsa")  # below ~/.ssh
_HARDWARE: Final = "sk-"


@click.command(cls=Verb)
@click.option("--as", "as_", metavar="NAME", help="Who: ann, user:ann or service:x [your name on this machine].")
@click.option("--key", metavar="FILE", help="The key: a private one, or the .pub of one that the SSH agent holds.")
@click.option("--for", "lifetime", default="", metavar="10m", help="How long it is to last; the service may give less.")
@common_options
def login(*, as_: str | None, key: str | None, lifetime: str) -> None:
    """Log in with an SSH key, and keep the token for the commands that follow.

    The keys that the SSH agent holds are tried, and then those in ~/.ssh. The token is of use where nothing else is
    said: neither STRONGROOM_API_ID and _API_KEY, nor a home whose client.json you can read.
    """
    from strongroom.deploy.cli import logged_in

    principal = _principal(as_)
    there = logged_in.address(places())
    with logged_in.of(there, 10.0, RETRIES) as service:
        given = _logged_in(service, principal, lifetime, _named(key) if key else _found())
    kept = logged_in.keep(there, given, lifetime)
    show.done(
        {"principal": kept.principal, "expires": kept.expires, "key": kept.key},
        f"logged in as {kept.principal} until {kept.expires}, with the key {kept.key}",
    )


class _Key(NamedTuple):
    """A key to try, and what people are told that it is."""

    key: "Signs"
    told: str


def _principal(said: str | None) -> str:
    from strongroom.models.access import check_name

    kind, colon, name = (said or _own_name()).rpartition(":")
    if colon and kind not in ("user", "service"):
        raise click.UsageError("--as is NAME, user:NAME or service:NAME")
    return f"{kind or 'user'}:{check_name(name)}"


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise click.UsageError("this machine has no name for you: say --as NAME") from None


def _logged_in(service: "StorageClient", principal: str, lifetime: str, keys: "Iterable[_Key]") -> "LoggedIn":
    """Return what the first of *keys* gives that is the principal's.

    Raises:
        NoKey: none is, or nobody is called so.
    """
    from strongroom.storage_service.client.login import NoKey
    from strongroom.storage_service.errors import Denied

    tried: list[str] = []
    for each in keys:
        tried.append(each.told)
        try:
            return service.login(principal, each.key, lifetime=lifetime)
        except Denied:
            continue
    raise NoKey(
        f"no key logs in as {principal}: none that was tried is registered for that name, or there is nobody of it "
        f"(tried: {', '.join(tried)})"
    )


def _found() -> "Iterator[_Key]":
    """Yield the keys that somebody has who names none: those of the agent, and then those that lie where ssh looks.

    Raises:
        NoKey: there is none.
    """
    from strongroom.storage_service.client.login import MOST_KEYS, NoKey, in_agent
    from strongroom.storage_service.client.ssh_agent import AgentError

    blobs: set[bytes] = set()
    why = ""
    try:
        for key in in_agent()[:MOST_KEYS]:
            blobs.add(key.blob)
            yield _of_agent(key)
    except (AgentError, NoKey) as error:
        why = error.text
    for name in USUAL:
        path = Path("~/.ssh").expanduser() / name
        if not path.is_file() or _public_beside(path) in blobs:
            continue
        opened = None
        with suppress(NoKey, click.UsageError):  # one of several: a key that cannot be used is none of them
            opened = _opened(path)
        if opened is not None and opened.blob not in blobs:
            blobs.add(opened.blob)
            yield _Key(opened, str(path))
    if not blobs:
        raise NoKey(f"{why or 'there is no key'}, and there is none in ~/.ssh that can be used: say --key FILE")


def _named(file: str) -> "Iterator[_Key]":
    """Yield the key that *file* is: from the agent where that holds it, else from the file.

    Raises:
        NoKey: it is not a key, or is to be in the agent and is not.
    """
    from strongroom.storage_service.client.login import InAgent, NoKey, public_blob, usable
    from strongroom.storage_service.client.ssh_agent import Agent, AgentError

    path = Path(file).expanduser()
    public = path.suffix == ".pub"
    try:
        blob = public_blob(path.read_text("ascii")) if public else _public_beside(path)
    except OSError as error:
        raise NoKey(f"the key cannot be read from {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NoKey(f"the key cannot be read from {path}: it is not text") from None
    agent = Agent.of_environment()
    try:
        held = agent is not None and any(key.blob == blob for key in usable(agent.keys()))
    except AgentError:
        if public:
            raise
        held = False
    if held and agent is not None and blob is not None:
        yield _of_agent(InAgent(agent, blob))
    elif public:
        raise NoKey(f"the SSH agent does not hold the key of {path}: add it with ssh-add, or name the private key")
    else:
        yield _Key(_opened(path), str(path))


def _of_agent(key: "InAgent") -> _Key:
    from strongroom.storage_service.wire import ssh

    fingerprint = ssh.fingerprint_of(key.blob)
    if ssh.kind_of(key.blob).startswith(_HARDWARE):
        show.note(f"touch the key {fingerprint}")
    return _Key(key, fingerprint)


def _public_beside(path: Path) -> bytes | None:
    """Return the public key in the file beside a private one, if there is one: to know it without opening it."""
    from strongroom.storage_service.client.login import NoKey, public_blob

    try:
        return public_blob(path.with_name(path.name + ".pub").read_text("ascii"))
    except (OSError, UnicodeDecodeError, NoKey):
        return None


def _opened(path: Path) -> "FileKey":
    """Return the private key in a file, whose passphrase is asked for.

    Raises:
        NoKey: it holds none, or none that opens.
        UsageError: it has a passphrase, and nobody can be asked.
    """
    from strongroom.storage_service.client.login import NoKey
    from strongroom.storage_service.client.login_key import FileKey, PassphraseNeeded, PassphraseWrong

    with suppress(PassphraseNeeded):
        return FileKey.read(path)
    for typed in _passphrases(path):
        with suppress(PassphraseWrong):
            return FileKey.read(path, typed.encode())
    raise NoKey(f"the passphrase does not open {path}")


def _passphrases(path: Path) -> Iterator[str]:
    """Yield what is typed without echo, or else the one line of standard input."""
    from strongroom.deploy.cli.proofs import hidden, typed_lines

    if not sys.stdin.isatty():
        yield typed_lines(1, f"the passphrase of {path}")[0].reveal()
        return
    for _ in range(TIMES):
        yield hidden(f"Passphrase of {path}")
