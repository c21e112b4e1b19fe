"""``strongroom key init``: the first keys of a store, in force only once their keepers have seen them."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, client_directory, common_options
from strongroom.deploy.cli.key import entry, options, printed
from strongroom.deploy.cli.words import Verb

if TYPE_CHECKING:
    from strongroom.storage_service.client import NewKeys, StorageClient
    from strongroom.storage_service.wire.keys import KeyringStatus, Mode

_MEANS: Final[dict[str, str]] = {
    "file": "the key file, secrets.key: the service starts unlocked, and whoever has its whole disk can read it",
    "unlock": "unlock keys, any one of which opens: the service starts locked, until somebody types one",
    "shares": "shares, some of which open together: the service starts locked, until enough people typed theirs",
    "machine": "this machine's own key: the service starts unlocked (made with: strongroom machine init)",
}
_ENDINGS: Final = (signal.SIGHUP, signal.SIGTERM)  # a closed terminal, a session that is ended


@click.command(cls=Verb)
@options.recipients_options
@click.option("--keyset-keys", type=click.IntRange(1, 32), default=1, metavar="N", help="Keys in each generation [1].")
@click.option("--again", is_flag=True, help="In the place of one whose keys got lost before it was used.")
@common_options
def init(
    *, mode: "Mode | None", count: int | None, shares: tuple[int, int] | None, keyset_keys: int, again: bool
) -> None:
    """Make the first keys of a store, and print those for people, this once.

    \b
    --mode file     the key file opens it; the service starts unlocked
    --mode unlock   any one of some unlock keys opens it; the service starts locked
    --mode shares   some of the shares open it together; the service starts locked
    machine init    (a command of its own) this machine's key opens it; the service starts unlocked

    Where none is said, the one that suits is proposed: the key file where the service was handed one. Keys for people
    are typed back at a terminal, which unlocks the service. Where they cannot be shown, or are not typed back, they
    are not in force, and the store is as it was.
    """  # noqa: D301  # \b is click's word for: keep these lines
    from strongroom.deploy.home import refuse_lost

    wanted = options.wanted(mode, count, shares)
    _refuse_machine(wanted)
    with client() as service, _signals_raised():
        found = service.keyring()
        if found.state == "uninitialized":
            refuse_lost(client_directory())
        if wanted is None:
            wanted = _choose(found, again=again)
            _refuse_machine(wanted)
        _make(service, wanted, keyset_keys, again=again)


def _refuse_machine(wanted: options.Wanted | None) -> None:
    if wanted is not None and wanted.mode == "machine":
        raise click.UsageError(show.advice("the first machine makes its keyring itself", "machine init"))


def _choose(found: "KeyringStatus", *, again: bool) -> options.Wanted:
    """Return who is to open the keyring: what suits the service, or what a person at the terminal chooses.

    Raises:
        Exists: there is a keyring already.
        UsageError: nobody is there to choose, and what was left to choose needs somebody.
    """
    if found.state != "uninitialized" and not again:
        raise _initialized()
    proposed = found.proposed or "unlock"
    if proposed == "file":
        return options.Wanted("file")
    if not _is_a_person_there():
        own = show.advice("or this machine by its own key", "machine init")
        raise click.UsageError(f"say who is to open it: --mode file, --mode unlock or --mode shares; {own}")
    show.note("Who is to open the keys of this store, whenever the service starts?")
    for name, means in _MEANS.items():
        show.note(f"  {name:<8} {means}")
    chosen: Any = click.prompt("Which", type=click.Choice(list(_MEANS)), default=proposed, err=True)
    return options.Wanted(chosen)


def _make(service: "StorageClient", said: options.Wanted, keyset_keys: int, *, again: bool) -> None:
    """Make the keyring and see to it that its keys are in somebody's hands, or that there is none."""
    from strongroom.storage_service.errors import Exists

    try:
        made = service.init_keyring(said.mode, total=said.total, needed=said.needed, keys=keyset_keys, again=again)
    except Exists:
        raise _initialized() from None
    if not made.keys:
        _show(service, made)
        if not show.as_json():
            show.words(f"the service is {service.keyring().state}, and its key file opens it: keep a copy of that")
        return
    try:
        _show(service, made)
        if _is_a_person_there():
            service.unlock(_type_back(made))
    except BaseException:
        _take_back(service, made)
        raise
    if not show.as_json():
        show.words(f"the service is {service.keyring().state}")


def _show(service: "StorageClient", made: "NewKeys") -> None:
    """Print what was made.

    Raises:
        StrongroomError: it could not be written.
    """
    from strongroom.storage_service.errors import StrongroomError

    state = service.keyring().state
    try:
        printed.new_keys(made, state=state)
    except OSError as error:
        # What is still in the buffer is not to be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StrongroomError(f"the keys could not be shown: {error.strerror}") from None


def _type_back(made: "NewKeys") -> Any:
    """Ask for the keys that were shown, until they are what is typed: all unlock keys, or shares that open together."""
    from strongroom.storage_service.keyring.ceremonies.typed import kids

    show.note("They are in force once you have typed them back, from where they are kept now.")
    shown = kids("\n".join(key.reveal() for key in made.keys))
    while True:
        typed = entry.ask_for(made.needed or len(made.keys), "Share" if made.needed else "New key")
        if kids(typed.reveal()) == shown:
            return typed
        show.note("These are not the keys that were shown; once more")


def _take_back(service: "StorageClient", made: "NewKeys") -> None:
    """Undo what was made; if that cannot be done, say how it can be done later."""
    from strongroom.storage_service.errors import StrongroomError

    try:
        service.take_back_keyring(made.root)
    except StrongroomError as error:
        text = (
            f"The keys that were made could not be taken back ({error.text}). "
            "Nobody may know them all: make new ones with"
        )
        show.note(show.advice(text, "key init", again=True))
    else:
        show.note("Nothing has changed: those keys are not in force, and the store has none.")


def _initialized() -> Exception:
    from strongroom.models.steps import Step
    from strongroom.storage_service.errors import Exists

    step = Step("if nobody has its keys, and nothing was stored yet", "key init", {"again": True})
    return Exists("the store is initialized already; its keyring is kept").advising(step)


def _is_a_person_there() -> bool:
    """Whether keys are shown on a screen before which somebody sits."""
    return entry.is_asked() and sys.stdout.isatty() and not show.as_json()


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let an end from outside unwind like Ctrl-C, so that keys are taken back that nobody has."""

    def end(*_: object) -> None:
        raise click.Abort

    heeded = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's stays
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
