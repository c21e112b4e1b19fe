"""``strongroom key rotate``, ``reencrypt`` and ``retire``: new keys in the place of old ones, and the end of those."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from strongroom.deploy import steps
from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.completion import GENERATION, KEYSET
from strongroom.deploy.cli.interruption import interruptible
from strongroom.deploy.cli.key import entry, options, printed
from strongroom.deploy.cli.key.usage import LONG
from strongroom.deploy.cli.words import Noun, Verb
from strongroom.models.secret import Secret

if TYPE_CHECKING:
    from strongroom.models.steps import Option
    from strongroom.storage_service.client import StorageClient
    from strongroom.storage_service.wire.keys import Mode

STEP = 60.0  # seconds that one step may take, when the store is slow
_FAR = "at least {done} records are re-encrypted; nothing is lost, and each opens, as do those that are left"
PACE = 0.25  # of the time is spent on re-encryption, unless told otherwise


@click.group(cls=Noun)
def rotate() -> None:
    """Make a new root key, or a new generation of a keyset."""


# The root key


@rotate.command()
@options.recipients_options
@click.option("--keep-file", is_flag=True, help="Let the key file that is there go on opening it.")
@click.option("--confirm", "confirmed", metavar="KID", help="Go on with a root key that was prepared.")
@click.option("--confirm-file", metavar="FILE", help="With --confirm: read its keys from a file; - is standard input.")
@click.option("--abandon", "abandoned", metavar="KID", help="Drop a root key that was prepared.")
@common_options
def root(
    *,
    mode: "Mode | None",
    count: int | None,
    shares: tuple[int, int] | None,
    keep_file: bool,
    confirmed: str | None,
    confirm_file: str | None,
    abandoned: str | None,
) -> None:
    """Make a new root key, print the keys that open it, and have them typed back before it takes the place of the old.

    Who is to open it stays as it is, unless told otherwise. Away from a terminal the keys are printed, and confirmed
    by a second call: rotate root --confirm KID, which reads them from standard input.
    """
    said = options.wanted(mode, count, shares)
    if sum([said is not None or keep_file, confirmed is not None, abandoned is not None]) > 1:
        raise click.UsageError("--confirm and --abandon go with no other choice")
    if confirm_file is not None and confirmed is None:
        raise click.UsageError("--confirm-file goes with --confirm")
    with client(STEP) as service:
        if abandoned is not None:
            service.abandon_root(abandoned)
            show.done({"root": abandoned, "abandoned": True}, f"dropped {abandoned}; nothing has changed")
        elif confirmed is not None:
            _confirm(service, confirmed, confirm_file)
        else:
            _prepare(service, said, keep_file=keep_file)


def _confirm(service: "StorageClient", kid: str, file: str | None) -> None:
    """Confirm a root key that an earlier call prepared."""
    pending = {each.root: each for each in service.keyring().pending if each.root is not None}
    recipients = pending[kid].recipients if kid in pending else []
    kinds = {each.kind for each in recipients}
    text = None
    if not kinds or kinds & {"unlock", "shares"}:
        wanted = options.as_before(recipients)
        text = entry.read(file, lambda: _ask_back(wanted))
    service.confirm_root(kid, text)
    _tell_confirmed(kid)


def _prepare(service: "StorageClient", said: options.Wanted | None, *, keep_file: bool) -> None:
    from strongroom.models.steps import Step
    from strongroom.storage_service.errors import Invalid

    wanted = said or (options.Wanted("file") if keep_file else options.as_before(service.keyring().recipients))
    made = service.prepare_root(wanted.mode, total=wanted.total, needed=wanted.needed, keep_file=keep_file)
    step = Step("to go on, type them back", "key rotate root", {"confirm": made.root})
    later = steps.command(step, common().lead)
    if not made.keys:
        service.confirm_root(made.root)
        if show.as_json():
            printed.new_keys(made, confirmed=True)
        else:
            _tell_confirmed(made.root)
        return
    printed.new_keys(made, next=steps.as_data([step]))
    if not entry.is_asked():
        show.note(f"Nothing has changed yet. To go on, give those keys to: {later}")
        return
    show.note("Nothing has changed yet. Type them back, from where they are kept now.")
    try:
        while True:
            try:
                service.confirm_root(made.root, _ask_back(wanted))
                break
            except Invalid as error:
                show.note(f"{error.text}; once more")
    except (click.Abort, KeyboardInterrupt):
        show.note(f"Nothing has changed. To go on: {later}; or else: --abandon {made.root}")
        raise
    if not show.as_json():
        _tell_confirmed(made.root)


def _ask_back(wanted: options.Wanted) -> Secret:
    if wanted.mode == "shares":
        return entry.ask_for(wanted.needed or 1, "Share")
    return entry.ask_for(wanted.total, "New key")


def _tell_confirmed(kid: str) -> None:
    show.done({"root": kid, "confirmed": True}, f"the root key is {kid} now; what opened the one before opens nothing")


# Keysets


@dataclass(slots=True)
class Swept:
    """What passes of re-encryption have done."""

    moved: int = 0
    overtaken: int = 0
    unreadable: set[str] = field(default_factory=set)
    settled: bool = False
    left: list[str] = field(default_factory=list)

    def told(self, name: str | None) -> dict[str, object]:
        """Return it for programs."""
        return {
            "keyset": name,
            "moved": self.moved,
            "overtaken": self.overtaken,
            "unreadable": sorted(self.unreadable),
            "left": self.left,
            "settled": self.settled,
        }


def sweep(
    service: "StorageClient", name: str | None, pace: float, advance: Callable[[int], None], *, resume: bool = False
) -> Swept:
    """Re-encrypt step by step and pass by pass, until nothing is left or a whole pass changed nothing.

    Args:
        service: the service.
        name: the keyset; None: all.
        pace: which part of the time to spend on it, above 0 and up to 1.
        advance: is told how many records were moved.
        resume: go on past records that do not open.
    """
    from strongroom.storage_service.wire.keys import MAX_LIMIT

    limit = round(MAX_LIMIT * pace)  # so that a step takes as long at every pace
    swept = Swept()
    after: str | None = None
    idle = True
    while True:
        step = service.reencrypt(name, after, limit=limit, resume=resume, pace=pace)
        swept.moved += step.moved
        swept.overtaken += step.overtaken
        swept.unreadable |= set(step.unreadable)
        advance(step.moved + step.overtaken)
        idle = idle and not step.moved and not step.overtaken
        after = step.after
        if after is None:
            swept.settled, swept.left = step.settled, step.left
            if step.settled or idle:
                return swept
            idle = True


_PACE = click.option(
    "--pace",
    type=click.FloatRange(0.01, 1.0),
    default=PACE,
    metavar="0.01..1",
    help=f"Which part of the time to spend on it; the rest is for others [{PACE}].",
)


@rotate.command("keyset")
@click.argument("name", shell_complete=KEYSET)
@click.option("--keys", type=click.IntRange(1, 32), metavar="N", help="Keys in the new generation [as many as before].")
@click.option("--reencrypt", "wholly", is_flag=True, help="And re-encrypt what is there; if that fails, revert it all.")
@click.option("--revert", is_flag=True, help="Go back to the generation before, instead.")
@_PACE
@common_options
def rotate_keyset(*, name: str, keys: int | None, wholly: bool, revert: bool, pace: float) -> int | None:
    """Give keyset NAME a new generation; secrets are written under it from now on.

    Those that are there stay under the old generations, which go on opening them, until they are written again or
    re-encrypted.
    """
    from strongroom.models.steps import Step
    from strongroom.storage_service.errors import InUse

    if revert and (wholly or keys is not None):
        raise click.UsageError("--revert goes without --keys and --reencrypt")
    with client(STEP) as service:
        if revert:
            service.revert_keyset(name)
            text = show.advice(f"{name} is being reverted", "key reencrypt", keyset=name)
            show.done({"keyset": name, "reverting": True}, text)
            return None
        if wholly and not service.keyring().counted:
            step = Step("count them", "key usage", {"scan": True, "repair": True})
            raise InUse("not all records are counted yet").advising(step)
        service.rotate_keyset(name, keys=keys)
        if not wholly:
            active = next(each.active for each in service.list_keysets() if each.name == name)
            show.done({"keyset": name, "active": active}, f"{name} is at {active} now")
            return None
        return _rotate_wholly(service, name, pace)


def _rotate_wholly(service: "StorageClient", name: str, pace: float) -> int | None:
    """Re-encrypt all of a keyset that was just rotated; what cannot be finished is reverted."""
    from strongroom.deploy.cli.exits import FAILED
    from strongroom.storage_service.errors import ServiceError

    try:
        swept = _watched(service, name, pace)
        why = "" if swept.settled else f"records do not open, or others are in the way: {', '.join(swept.left)}"
    except ServiceError as error:
        why = error.text
    if not why:
        show.done(swept.told(name) | {"reverted": False}, f"re-encrypted {swept.moved} records of {name}")
        return None
    show.note(f"{name} could not be re-encrypted ({why}), and is reverted")
    service.revert_keyset(name)
    back = _watched(service, name, pace)
    if not back.settled:
        show.note(show.advice("not all is reverted yet; go on with", "key reencrypt", keyset=name))
    show.done(back.told(name) | {"reverted": True}, f"{name} is as it was; {back.moved} records were brought back")
    return FAILED


def _watched(service: "StorageClient", name: str | None, pace: float, *, resume: bool = False) -> Swept:
    """Re-encrypt under a bar of progress.

    Raises:
        Interrupted: somebody interrupted it.
    """
    from strongroom.models.steps import Step

    pending = [each.records or 0 for each in service.keyring().pending if name in (None, each.keyset)]
    going_on: dict[str, Option] = {"resume": resume}
    if pace != PACE:
        going_on["pace"] = str(pace)
    if name is not None:
        going_on["keyset"] = name
    following = Step("to go on", "key reencrypt", going_on)
    with (
        interruptible(_FAR, following) as stretch,
        show.progress(name or "all keysets", sum(pending)) as advance,
    ):
        return sweep(service, name, pace, stretch.counting(advance), resume=resume)


@click.command(cls=Verb)
@click.argument("keyset", required=False, shell_complete=KEYSET)
@_PACE
@click.option("--resume", is_flag=True, help="Go on with a reversal that failed, and let secrets be written again.")
@click.option("--leave-unreadable", is_flag=True, help="With --resume: also if records are left that do not open.")
@common_options
def reencrypt(*, keyset: str | None, pace: float, resume: bool, leave_unreadable: bool) -> int | None:
    """Re-encrypt what is not under the active generation of KEYSET, or of all keysets.

    It can be interrupted at any moment and begun again, and be run by several at once; secrets are read and written
    meanwhile.
    """
    from strongroom.deploy.cli.exits import FAILED

    if leave_unreadable and not resume:
        raise click.UsageError("--leave-unreadable goes with --resume")
    with client(STEP) as service:
        if resume:
            keyset = keyset or _halted(service)
        swept = _watched(service, keyset, pace, resume=resume)
        if resume and keyset is not None:
            service.resume_keyset(keyset, leave_unreadable=leave_unreadable)
    for name in sorted(swept.unreadable):
        show.note(f"does not open, and stays as it is: {name}")
    if swept.settled or leave_unreadable:
        show.done(swept.told(keyset), f"re-encrypted {swept.moved} records")
        return None
    show.done(swept.told(keyset), f"re-encrypted {swept.moved} records; some are left: {', '.join(swept.left)}")
    return FAILED


def _halted(service: "StorageClient") -> str:
    """Return the keyset whose reversal failed."""
    said = service.keyring()
    if said.halted is not None:
        return said.halted.keyset
    reverting = [each.name for each in said.keysets if each.reverting]
    if len(reverting) != 1:
        raise click.UsageError("say which keyset to resume")
    return reverting[0]


@click.command(cls=Verb)
@click.argument("generation", shell_complete=GENERATION)
@common_options
def retire(*, generation: str) -> None:
    """Destroy GENERATION of a keyset, such as default.1, when it is proven that nothing is under it.

    What was encrypted under it, in a copy of the store that was not registered, can never be read again.
    """
    from strongroom.models.steps import Step

    far = "the service may finish it all the same, and destroys nothing that something is under; key usage tells"
    with interruptible(far, Step("to see", "key usage")), client(LONG) as service:
        service.retire_generation(generation)
    show.done({"generation": generation, "retired": True}, f"retired {generation}")
