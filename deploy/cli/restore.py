"""``strongroom restore``: an empty store, and its home, from a backup."""

import asyncio
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.backup import file as backup_file
from strongroom.deploy.cli.backup.file import key_options, place_options
from strongroom.deploy.cli.common import common, common_options
from strongroom.deploy.cli.interruption import Stretch, interruptible, said_again
from strongroom.deploy.cli.words import Verb
from strongroom.deploy.owner import owner_of_store
from strongroom.deploy.places import PREFIX
from strongroom.deploy.steps import as_data, sentence
from strongroom.models.names import MACHINES

if TYPE_CHECKING:
    from strongroom.deploy.settings import Settings
    from strongroom.models.steps import Option, Step
    from strongroom.storage_service.backup.checking import Checked
    from strongroom.storage_service.keyring.ceremonies.export import Exported, Given
    from strongroom.storage_service.record_of_store import RecordOfStore


@click.command(cls=Verb)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--leave-unreadable", is_flag=True, help="Do so although there are secrets that do not open.")
@click.option("--leave-newer", is_flag=True, help="Do so although the store left behind was written since.")
@key_options
@place_options
@common_options
def restore(
    *,
    file: str,
    leave_unreadable: bool,
    leave_newer: bool,
    key_file: Path | None,
    typed: str | None,
    store: str | None,
    config: Path | None,
) -> None:
    """Fill an empty store from a backup, and make a home for it, in which no service runs.

    It takes one key that opens the backup: the root key file, which is put where the home wants it, or an unlock key or
    shares, which are asked for. Everything in the file is opened before anything is written.
    """
    from strongroom.storage_service.backup.checking import check, exported_in, refuse_unreadable
    from strongroom.storage_service.backup.form import Reader, rows_said
    from strongroom.storage_service.keyring.ceremonies.export import open_root
    from strongroom.storage_service.keyring.ceremonies.files import put_root

    settings = backup_file.settings(store, config)
    said = {"key_file": key_file, "typed": typed, "store": store, "config": config}
    flags = {"leave_unreadable": leave_unreadable, "leave_newer": leave_newer}
    again = said_again("to go on", "restore", file, said, **flags)
    with (
        interruptible("{done} records were read, and nothing was written", again) as stretch,
        backup_file.opened(file) as source,
    ):
        with backup_file.named(file):
            total = rows_said(source)
            reader = Reader(source)
            exported = exported_in(reader.head)
        given = _given(settings, exported, key_file, typed)
        with backup_file.named(file):
            root = open_root(exported, given)
            with show.progress("opening", total) as advance:
                checked = check(reader, stretch.counting(advance), root)
            if not leave_unreadable:
                refuse_unreadable(checked)
        with _furnished(settings):
            put_root(settings.service.root_key, given)
            if not leave_newer:
                _refuse_to_leave(settings, checked, config)
            with _recorded(settings, checked), owner_of_store(settings.service.store):
                asyncio.run(_restore(settings, source, exported, checked, stretch))
                stretch.text = "all {done} records are restored; the home is not finished"
    following = _next_steps(settings, exported, store, config)
    if show.as_json():
        counts = {"backup": checked.head.label, "rows": checked.end.rows, "opened": checked.opened}
        show.answer(counts | {"unreadable": checked.unreadable, "next": as_data(following)})
        return
    show.words(f"restored {checked.end.rows} records of {checked.head.taken}; all {checked.opened} secrets open")
    for each in checked.unreadable:
        show.words(f"does not open: {each}")
    for step in following:
        show.words(f"next: {sentence(step, common().lead)}")


def _given(settings: "Settings", exported: "Exported", key_file: Path | None, typed: str | None) -> "Given":
    """Return what is to open the backup; where nothing was said, what the home has, or what is typed."""
    from strongroom.storage_service.keyring.ceremonies.files import read_own

    kinds = {each.kind for each in exported.recipients}
    own = settings.service.machine_key
    if key_file is None and typed is None:
        if "file" in kinds and settings.service.root_key.exists():
            key_file = settings.service.root_key
        elif kinds == {"machine"} and own is not None:
            return read_own(own)
    return backup_file.given(exported, key_file, typed)


@contextmanager
def _furnished(settings: "Settings") -> Iterator[None]:
    """Make the home, or see that nothing runs in it; one that holds a unit's settings, or its state, is let alone."""
    from strongroom.deploy.home import Home

    home = Home(settings.home)
    if _is_state(settings) or (home.path.exists() and any(home.path.iterdir()) and not _is_home(settings)):
        yield
        return
    home.prepare()
    with home.lock():
        home.furnish()
        yield


def _refuse_to_leave(settings: "Settings", checked: "Checked", config: Path | None) -> None:
    """Refuse to move the home to another store than its records are in, if these are not all in the backup.

    Raises:
        Exists: they are not; the text says what to do.
    """
    from strongroom.models.steps import Step
    from strongroom.storage_service.backends.url import as_said, same_place
    from strongroom.storage_service.errors import Exists, StrongroomError

    record = _record_of(settings)
    known = None if record is None else record.read() or settings.service.beside
    if known is None or same_place(known, settings.service.store):
        return
    before = backup_file.settings(as_said(known), config)
    try:
        with Path(os.devnull).open("wb") as nowhere, owner_of_store(before.service.store):
            alike = asyncio.run(_holds_the_same(before, checked, nowhere))
    except StrongroomError as error:
        show.note(f"{as_said(known)} was not compared, and what was written there since is left: {error}")
        return
    if not alike:
        raise Exists(
            f"this home's records are in {as_said(known)}, which holds something else than this backup of"
            f" {checked.head.taken}; to leave behind what was written since, say --leave-newer"
        ).advising(Step("else take a new one, and restore that", "backup take", {"offline": True}))


async def _holds_the_same(settings: "Settings", checked: "Checked", nowhere: IO[bytes]) -> bool:
    """Whether the store of *settings* would make the same backup now.

    Raises:
        ConfigurationError, Unavailable: it cannot be read.
    """
    from strongroom.deploy.cli.backup.copying import moment_of
    from strongroom.storage_service.backup import taking
    from strongroom.storage_service.errors import Invalid

    apart = settings.service.machine_documents is not None
    async with moment_of(settings.service.store) as moment:
        with show.progress("comparing", moment.count) as advance, suppress(Invalid):
            end = await taking.copy(moment, checked.head, nowhere, advance, leave_out=MACHINES if apart else "")
            return end.body == checked.end.body
    return False  # other recipients open it


async def _refuse_filled(settings: "Settings", checked: "Checked") -> None:
    """Refuse a store that cannot be reached, or filled, before anything is done for it."""
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.backup.restoring import refuse_filled

    store = open_backend(settings.service.store)
    await store.open()
    try:
        await refuse_filled(store, checked)
    finally:
        await store.close()


async def _restore(
    settings: "Settings", source: IO[bytes], exported: "Exported", checked: "Checked", stretch: Stretch
) -> None:
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.backup.restoring import restore as fill
    from strongroom.storage_service.keyring.ceremonies.offline import forget_seen, save_machines

    store = open_backend(settings.service.store)
    await store.open()
    try:
        apart = settings.service.machine_documents
        if apart is not None:
            await save_machines(store, apart, exported)  # first: where that cannot be, the store is as it was
        with show.progress("restoring", 2 * checked.end.rows) as advance:
            stretch.done = 0
            stretch.text = (
                f"of {checked.end.rows:,} records, each written and then compared, {{done}} are; no service starts on a"
                " store that is half restored, and the same backup finishes it"
            )
            await fill(source, store, checked, stretch.counting(advance))
        await save_machines(store, apart, exported)
        await forget_seen(settings.service)
    finally:
        await store.close()


@contextmanager
def _recorded(settings: "Settings", checked: "Checked") -> Iterator[None]:
    """Let the home say that its records are in this store, once they are.

    Where it knows of none it says so before: whoever is killed before anything is in the store leaves no home for
    another. A store that cannot be filled, or reached, leaves the home as it was.
    """
    from strongroom.storage_service.errors import StrongroomError

    record = _record_of(settings)
    known = None if record is None else record.read() or settings.service.beside
    if record is not None and known is None:
        record.keep(settings.service.store)
    try:
        with owner_of_store(settings.service.store):
            asyncio.run(_refuse_filled(settings, checked))
    except StrongroomError:
        if record is not None and known is None:
            record.forget()
        raise
    yield
    if record is not None:
        record.keep(settings.service.store)


def _record_of(settings: "Settings") -> "RecordOfStore | None":
    """Return the record of the home; None where it has no place, which a directory of settings alone is not.

    What a unit keeps its state in is no home of ``up``, but a service that ran there has left its record.
    """
    from strongroom.storage_service.record_of_store import RecordOfStore

    place = settings.service.store_record
    if place is None or not place.parent.is_dir():
        return None
    if place.parent == settings.home and not (place.exists() or _is_home(settings) or _is_state(settings)):
        return None
    return RecordOfStore(place)


def _is_home(settings: "Settings") -> bool:
    """Whether ``strongroom up`` lives there, and it is no directory that holds settings alone."""
    return (settings.home / "run").is_dir()


def _is_state(settings: "Settings") -> bool:
    """Whether it is what a container keeps its state in: it is there, and the keys are handed in elsewhere."""
    handed_in = (settings.client, settings.service.root_key)
    return settings.home.is_dir() and not any(file.is_relative_to(settings.home) for file in handed_in)


def _next_steps(settings: "Settings", exported: "Exported", store: str | None, config: Path | None) -> "list[Step]":
    """Return what is to be done now."""
    from strongroom.models.steps import Step

    kinds = {each.kind for each in exported.recipients}
    home: dict[str, Option] = {"home": str(settings.home)}
    following = [Step("start its service: systemctl start strongroom-storage strongroom-proxy")]
    if _is_home(settings):
        following = [Step("start its service", "up", home)]
    elif _is_state(settings):
        home, following = {}, [Step("start its service")]  # the command finds it as this one did
    if store is not None and _goes_unsaid(settings.service.store, config):
        following.insert(0, Step(_say_store(store, config or settings.home / "strongroom.toml")))
    if "file" in kinds and not settings.service.root_key.exists():
        following.insert(0, Step(f"put the root key file to {settings.service.root_key}"))
    elif "file" not in kinds and kinds & {"unlock", "shares"}:
        following.append(Step("unlock it", "key unlock", home))
    return following


def _say_store(store: str, file: Path) -> str:
    """Return where the store is to be said: a variable that says another comes before the file."""
    if os.environ.get(f"{PREFIX}STORE"):
        return f"say {PREFIX}STORE={shlex.quote(store)} to it, in place of the store that the variable says now"
    return f"say store = {json.dumps(store, ensure_ascii=False)} in {file}, in place of any other store there"


def _goes_unsaid(store: str, config: Path | None) -> bool:
    """Whether the settings, without what this command was told, lead to another store."""
    from strongroom.storage_service.backends.url import same_place

    try:
        return not same_place(backup_file.settings(None, config).service.store, store)
    except click.UsageError:  # it is said to be in memory
        return True
