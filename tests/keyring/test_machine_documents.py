"""Where machines' documents lie: one law for both places, and what the file keeps under faults, kills and races."""

import asyncio
import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.errors import InvalidName
from strongroom.models.names import MACHINES
from strongroom.storage_service.backends.base import ABSENT, PRESENT, Check, Conflict, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Fate, KeyringDamaged, Unavailable
from strongroom.storage_service.keyring.machines.document import MachineDocument, listed
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from strongroom.storage_service.keyring.machines.stored import (
    MAX_FILE,
    FileDocuments,
    MachineDocuments,
    StoredDocuments,
)
from tests.keyring.disks import Fault, FaultyDisk
from tests.keyring.machine_keys import RFC_7517, ROOT, key_of
from tests.keyring.racing import race

A: Final = MachineDocument.new("A", MachineKey(RFC_7517).public_jwk(), 1763800000).with_root(ROOT, True)
B: Final = MachineDocument.new("B", key_of(Kind.EC).public_jwk(), 1763800000).with_root(ROOT, False)
CHANGED: Final = A.with_root(ROOT, False)


@pytest.fixture(params=["store", "file"])
async def documents(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MachineDocuments]:
    """Give each of the two places, empty."""
    if request.param == "file":
        yield FileDocuments(tmp_path / "machines.json")
        return
    backend = MemoryBackend()
    await backend.open()
    yield StoredDocuments(backend)
    await backend.close()


async def held(documents: MachineDocuments) -> dict[str, bytes]:
    return {fingerprint: entry.value for fingerprint, entry in (await documents.get_all()).items()}


# The law of both places.


async def test_what_is_saved_is_there(documents: MachineDocuments) -> None:
    """A document that was saved is found by its fingerprint, alone and with the others, at the revision it got."""
    revisions = {each.fingerprint: await documents.save(each, ABSENT) for each in (A, B)}

    assert await held(documents) == {A.fingerprint: A.encode(), B.fingerprint: B.encode()}
    for each in (A, B):
        entry = await documents.get(each.fingerprint)
        assert entry is not None
        assert MachineDocument.decode(entry.value, each.fingerprint) == each
        assert entry.revision == revisions[each.fingerprint] > 0


async def test_nothing_is_there(documents: MachineDocuments) -> None:
    """Where nothing was saved there is nothing, and nothing to delete."""
    assert await documents.get(A.fingerprint) is None
    assert await documents.get_all() == {}
    assert await documents.delete(A.fingerprint) is False


async def test_what_root_saves_is_whose_the_place_is(tmp_path: Path) -> None:
    """Where a command of root's makes file and directory, the service, which is somebody else, can use them."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    path = tmp_path / "new/machines.json"

    await FileDocuments(path).save(A)

    assert {each.stat().st_uid for each in (path, path.parent)} == {tmp_path.stat().st_uid}


async def test_what_is_deleted_is_gone(documents: MachineDocuments) -> None:
    """Deleting tells whether there was a document, and leaves the others."""
    await documents.save(A)
    await documents.save(B)

    assert [await documents.delete(A.fingerprint) for _ in range(2)] == [True, False]
    assert await held(documents) == {B.fingerprint: B.encode()}


GUARDS: Final[Mapping[str, tuple[bool, int | None, bool]]] = {
    "new, whatever there is": (False, None, True),
    "new, if there is none": (False, ABSENT, True),
    "new, if there is one": (False, PRESENT, False),
    "again, whatever there is": (True, None, True),
    "again, if there is none": (True, ABSENT, False),
    "again, if there is one": (True, PRESENT, True),
    "again, at another revision": (True, 2**60, False),
}


@pytest.mark.parametrize(("there", "expected", "saved"), GUARDS.values(), ids=GUARDS)
async def test_guards(documents: MachineDocuments, there: bool, expected: int | None, saved: bool) -> None:
    """A document is saved if the row is where it is expected to be, and otherwise nothing is."""
    if there:
        await documents.save(A)
    before = await held(documents)
    if saved:
        await documents.save(CHANGED, expected)
        assert await held(documents) == {A.fingerprint: CHANGED.encode()}
    else:
        with pytest.raises(Conflict):
            await documents.save(CHANGED, expected)
        assert await held(documents) == before


async def test_of_two_who_read_one_writes(documents: MachineDocuments) -> None:
    """Who saves at the revision that was read is let through, and the second who has read the same is not."""
    revision = await documents.save(A)

    later = await documents.save(CHANGED, revision)
    with pytest.raises(Conflict):
        await documents.save(A.without_root(ROOT.kid), revision)

    assert await documents.save(A, later) != later
    assert await held(documents) == {A.fingerprint: A.encode()}


# The store.


@pytest.fixture
async def backend() -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend()
    await backend.open()
    yield backend
    await backend.close()


async def test_more_than_a_page(backend: MemoryBackend) -> None:
    """All documents are found, also where a listing takes several pages, and nothing beside them."""
    every = [f"{number:064x}" for number in range(2500)]
    await backend.commit([Put("system/keyring/machinery", b"x"), Put("system/keyring/keys", b"x")])
    for start in range(0, len(every), 100):
        await backend.commit([Put(MACHINES + each, b"{}") for each in every[start : start + 100]])

    assert list(await StoredDocuments(backend).get_all()) == every
    assert backend.calls["list"] == 3


async def test_a_damaged_row_hides_no_other(backend: MemoryBackend) -> None:
    """Rows are given out as they are, whatever they are, and each can be listed and deleted."""
    documents = StoredDocuments(backend)
    await documents.save(A)
    await backend.commit([Put(MACHINES + "0" * 64, b"hunter2"), Put(MACHINES + "strange", b"")])

    rows = [listed(entry.value, ROOT, place) for place, entry in (await documents.get_all()).items()]

    assert [(row.fingerprint, row.name, row.authority) for row in rows] == [
        ("0" * 64, "-", "?"),
        (A.fingerprint, "A", "Yes"),
        ("strange", "-", "?"),
    ]
    assert [await documents.delete(row.fingerprint) for row in rows] == [True, True, True]


async def test_changes_go_into_a_batch(backend: MemoryBackend) -> None:
    """A document is saved and removed with other records, all or nothing."""
    documents = StoredDocuments(backend)
    revision = await backend.commit([Put("system/keyring/keys", b"1")])

    await backend.commit([Check("system/keyring/keys", revision), documents.put(A, ABSENT)])
    with pytest.raises(Conflict):
        await backend.commit([Put("system/keyring/keys", b"2", ABSENT), documents.removal(A.fingerprint)])
    assert await held(documents) == {A.fingerprint: A.encode()}
    await backend.commit([Put("system/keyring/keys", b"2", revision), documents.removal(A.fingerprint)])

    assert await held(documents) == {}


@pytest.mark.parametrize("fingerprint", ["../keys", "", "a b", "/", "x/../y"])
async def test_no_other_record_is_reached(backend: MemoryBackend, fingerprint: str) -> None:
    """What is no name beneath the machines' is not looked for."""
    documents = StoredDocuments(backend)
    for ask in (documents.get, documents.delete):
        if fingerprint:
            with pytest.raises(InvalidName):
                await ask(fingerprint)
        else:
            assert not await ask(fingerprint)


async def test_a_store_that_is_away(backend: MemoryBackend) -> None:
    """A store that does not answer is not one without machines."""
    await backend.close()

    with pytest.raises(Unavailable):
        await StoredDocuments(backend).get_all()


# The file.


async def test_the_file(tmp_path: Path) -> None:
    """The file is JSON for people, its owner's alone, in a folder made for it, and nothing lies beside it."""
    path = tmp_path / "deep" / "down" / "machines.json"
    mask = os.umask(0o277)
    try:
        path.parent.mkdir(parents=True, mode=0o700)
        path.parent.chmod(0o700)
        await FileDocuments(path).save(A)
    finally:
        os.umask(mask)

    assert path.read_text() == json.dumps([json.loads(A.encode())], indent=2) + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["machines.json"]


async def test_folders_are_made(tmp_path: Path) -> None:
    """Folders that are missing are made, and are their owner's alone."""
    path = tmp_path / "deep" / "down" / "machines.json"

    await FileDocuments(path).save(A)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_reading_makes_nothing(tmp_path: Path) -> None:
    """Who only looks leaves no folder, no file and no lock behind."""
    documents = FileDocuments(tmp_path / "deep" / "machines.json")

    assert await documents.get_all() == {}
    assert list(tmp_path.iterdir()) == []


async def test_what_is_as_it_was_is_not_written(tmp_path: Path) -> None:
    """Saving the same again, or deleting what is not there, leaves the file alone."""
    documents = FileDocuments(tmp_path / "machines.json")
    revision = await documents.save(A)
    before = (tmp_path / "machines.json").stat().st_ino

    assert await documents.save(A, revision) == revision
    assert await documents.delete(B.fingerprint) is False
    assert (tmp_path / "machines.json").stat().st_ino == before


async def test_rows_that_are_none(tmp_path: Path) -> None:
    """Rows that say nothing of use, or what another says already, are kept, shown by number, and can be deleted."""
    path = tmp_path / "machines.json"
    strange = [5, {}, {"_id": "x"}, {"_id": [1]}, {"_id": A.fingerprint, "name": "second"}, None]
    path.write_text(json.dumps([json.loads(A.encode()), *strange]))
    documents = FileDocuments(path)

    rows = await documents.get_all()
    assert list(rows) == [A.fingerprint, *(f"row {number}" for number in range(2, 8))]
    assert [listed(entry.value, ROOT, place).authority for place, entry in rows.items()] == ["Yes", *"??????"]
    await documents.save(B)
    assert json.loads(path.read_text())[1:] == [*strange, json.loads(B.encode())]
    assert await documents.delete("row 3")
    assert json.loads(path.read_text())[1] == 5
    assert json.loads(path.read_text())[2] == {"_id": "x"}


async def test_rows_are_kept_to_the_letter(tmp_path: Path) -> None:
    """What other rows hold is not read and written anew, but kept: numbers without end, and letters that are none."""
    path = tmp_path / "machines.json"
    path.write_bytes(b'[{"a":1e999,"b":123456789012345678901234567890,"a":"\xff"}]')

    await FileDocuments(path).save(A)

    squeezed = b"".join(path.read_bytes().split())
    assert b'{"a":1e999,"b":123456789012345678901234567890,"a":"\xff"}' in squeezed


def linked(path: Path) -> None:
    path.with_name("other").write_bytes(b"[]")
    path.symlink_to("other")


UNREADABLE: Final[Mapping[str, tuple[Callable[[Path], object], type[Exception], str]]] = {
    "empty": (lambda path: path.write_bytes(b""), KeyringDamaged, "is not a JSON list"),
    "no JSON": (lambda path: path.write_bytes(b"hunter2"), KeyringDamaged, "is not a JSON list"),
    "half a file": (lambda path: path.write_bytes(b"[" + A.encode()), KeyringDamaged, "is not a JSON list"),
    "two lists": (lambda path: path.write_bytes(b"[][]"), KeyringDamaged, "is not a JSON list"),
    "an object": (lambda path: path.write_bytes(A.encode()), KeyringDamaged, "is not a JSON list"),
    "nested without end": (lambda path: path.write_bytes(b"[" * 100_000), KeyringDamaged, "is not a JSON list"),
    "far too large": (lambda path: path.write_bytes(b" " * MAX_FILE + b"[]"), KeyringDamaged, "is not a JSON list"),
    "a folder": (lambda path: path.mkdir(), Unavailable, "is not a plain file"),
    "a pipe": (os.mkfifo, Unavailable, "is not a plain file"),
    "a link": (linked, Unavailable, "cannot be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize(("make", "error", "text"), UNREADABLE.values(), ids=UNREADABLE)
async def test_files_that_are_none(
    tmp_path: Path, make: Callable[[Path], object], error: type[Exception], text: str
) -> None:
    """A file that is no list of documents is refused by its name, repeated nowhere, and never written over."""
    path = tmp_path / "machines.json"
    make(path)
    before = path.lstat()
    documents = FileDocuments(path)

    for ask in (documents.get_all, lambda: documents.save(A), lambda: documents.delete(A.fingerprint)):
        with pytest.raises(error) as caught:
            await ask()
        assert str(path) in str(caught.value)
        assert text in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__

    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """Where no file can be, nothing was written, and the text says why."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(Unavailable, match="cannot be written") as caught:
        await FileDocuments(tmp_path / "file" / "machines.json").save(A)

    assert caught.value.fate is Fate.NOT_APPLIED


async def test_a_file_does_not_grow_over_its_limit(tmp_path: Path) -> None:
    """What could not be read again is not written."""
    path = tmp_path / "machines.json"
    path.write_bytes(b'["' + b"x" * (MAX_FILE - 100) + b'"]')

    with pytest.raises(Unavailable, match="would become larger"):
        await FileDocuments(path).save(A)

    assert path.stat().st_size == MAX_FILE - 96


# Faults and kills.


async def prepare(folder: Path) -> None:
    """Let there be a file with a document, and beside it what a killed writer left."""
    await FileDocuments(folder / "machines.json").save(A)
    (folder / ".machines.json.new").write_bytes(b"[")


async def calls_of_a_save(folder: Path) -> list[str]:
    """Return the calls that saving a document into a file that is there makes."""
    await prepare(folder)
    disk = FaultyDisk()
    await FileDocuments(folder / "machines.json", disk).save(B)
    return disk.calls


async def test_calls_of_a_save(tmp_path: Path) -> None:
    """All is written and brought to the disk before the file gets its name, and the name after it."""
    calls = await calls_of_a_save(tmp_path)

    kinds = [call for place, call in enumerate(calls) if call != "write" or calls[place - 1] != "write"]
    assert kinds == ["unlink", "open", "fchmod", "write", "fsync", "close", "replace", "fsync"]
    assert calls.count("write") > 1


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_a_fault_at_every_call(tmp_path: Path, fault: Fault) -> None:
    """Whichever call fails, the file is the old one or the new one, and nothing lies beside it."""
    (tmp_path / "learn").mkdir()
    for at, call in enumerate(await calls_of_a_save(tmp_path / "learn")):
        folder = tmp_path / str(at)
        path = folder / "machines.json"
        await prepare(folder)
        before = path.read_bytes()

        with pytest.raises(Unavailable, match="cannot be written: Input/output error") as caught:
            await FileDocuments(path, FaultyDisk(at, fault)).save(B)

        after = await held(FileDocuments(path))
        if caught.value.fate is Fate.NOT_APPLIED:
            assert path.read_bytes() == before, (at, call)
        assert list(after) in ([A.fingerprint], [A.fingerprint, B.fingerprint]), (at, call)
        assert [each.name for each in folder.iterdir()] == ["machines.json"], (at, call)
        await FileDocuments(path).save(B)
        assert list(await held(FileDocuments(path))) == [A.fingerprint, B.fingerprint]


async def test_a_kill_at_every_call(tmp_path: Path) -> None:
    """Wherever a writer is killed, the file is whole, and the next writer goes on and leaves nothing beside it."""
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from strongroom.storage_service.keyring.machines.stored import FileDocuments\n"
        "from strongroom.storage_service.keyring.machines.document import MachineDocument\n"
        "from tests.keyring.disks import Fault, FaultyDisk\n"
        "folder, calls, fingerprint, raw = sys.argv[1:]\n"
        "document = MachineDocument.decode(raw.encode(), fingerprint)\n"
        "for fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):\n"
        "    for at in range(int(calls)):\n"
        "        if (child := os.fork()) == 0:\n"
        "            path = Path(folder, fault.name, str(at), 'machines.json')\n"
        "            asyncio.run(FileDocuments(path, FaultyDisk(at, fault)).save(document))\n"
        "            os._exit(0)\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    calls = await calls_of_a_save(tmp_path)
    folders = [
        tmp_path / fault.name / str(at)
        for fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
        for at in range(len(calls))
    ]
    for folder in folders:
        await prepare(folder)

    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(tmp_path), str(len(calls)), B.fingerprint, B.encode().decode()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert killed.stdout.split() == ["-9"] * len(folders)
    for folder in folders:
        documents = FileDocuments(folder / "machines.json")
        rows = await held(documents)
        assert rows in ({A.fingerprint: A.encode()}, {A.fingerprint: A.encode(), B.fingerprint: B.encode()}), folder
        await documents.save(CHANGED)
        assert [each.name for each in folder.iterdir()] == ["machines.json"], folder


# Several writers.


async def test_racing_processes_lose_no_document(tmp_path: Path) -> None:
    """Processes that save at one moment all find their documents afterwards."""
    program = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from strongroom.storage_service.keyring.machines import key as machine_key\n"
        "from strongroom.storage_service.keyring.machines.stored import FileDocuments\n"
        "from strongroom.storage_service.keyring.machines.document import MachineDocument\n"
        "made = [MachineDocument.new('x', machine_key.make().public_jwk(), 0) for _ in range(8)]\n"
        "async def save():\n"
        "    documents = FileDocuments(Path(sys.argv[1]))\n"
        "    for each in made:\n"
        "        await documents.save(each, 0)\n"
        "ready()\n"
        "asyncio.run(save())\n"
        "print(*(each.fingerprint for each in made))\n"
    )
    path = tmp_path / "machines.json"

    saved = await asyncio.to_thread(race, program, [[str(path)]] * 3)

    assert set(await held(FileDocuments(path))) == {each for line in saved for each in line.split()}
    assert len(await held(FileDocuments(path))) == 24
    assert [each.name for each in tmp_path.iterdir()] == ["machines.json"]


async def test_tasks_lose_no_document(tmp_path: Path) -> None:
    """Tasks of one process exclude one another, too."""
    path = tmp_path / "machines.json"

    await asyncio.gather(*(FileDocuments(path).save(each) for each in (A, B)), FileDocuments(path).delete("row 9"))

    assert set(await held(FileDocuments(path))) == {A.fingerprint, B.fingerprint}


async def test_waiting_leaves_the_loop_free(tmp_path: Path) -> None:
    """While another process writes, the event loop goes on, reading goes on, and then it is our turn."""
    documents = FileDocuments(tmp_path / "machines.json")
    await documents.save(A)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)

    saving = asyncio.create_task(documents.save(B))
    for _ in range(3):
        assert list(await held(documents)) == [A.fingerprint]
    assert not saving.done()
    os.close(other)
    await saving

    assert list(await held(documents)) == [A.fingerprint, B.fingerprint]


async def test_patience_ends(tmp_path: Path) -> None:
    """A writer that does not finish is not waited for without end; nothing was written then."""
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(Unavailable, match="another process has not finished writing") as caught:
            await FileDocuments(tmp_path / "machines.json", patience=0).save(A)
    finally:
        os.close(other)

    assert caught.value.fate is Fate.NOT_APPLIED
    assert list(tmp_path.iterdir()) == []
