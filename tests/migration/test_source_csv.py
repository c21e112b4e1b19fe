"""Tables as estates: what a row becomes, what is a fault, and what scrubbing leaves of a file and its key files."""

import base64
import csv
import io
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Original
from strongroom.migration.sources.tables import csv_file
from strongroom.migration.sources.tables.rows import MAX_ROW, RowSource
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_SECRET
from tests.ssh_keys import private_key

KEY: Final = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"
ENCODED: Final = base64.b64encode(KEY.encode()).decode()
PRIVATE: Final = 0o600

Open: TypeAlias = Callable[..., Awaitable[RowSource]]


class Story(NamedTuple):
    """A table, and of each of its rows what it becomes: names and a part of the last value, or a part of a fault."""

    table: str
    rows: Mapping[int, Sequence[str] | str]
    options: Mapping[str, Sequence[str]] = {}
    encoding: str = "utf-8"


STORIES: Final = {
    "a host alone": Story(
        "address,os,cpus\nh1,fedora,4\nh2,,\n", {2: ["hosts/h1", '"cpus":4'], 3: ["hosts/h2", '"os":""']}
    ),
    "a host with a key in PEM": Story(
        f'address,ssh_priv_key\nh1,"{KEY}"\n', {2: ["hosts/h1", "secrets/hosts/h1", ENCODED]}
    ),
    "a host with a key in base64": Story(
        f"address,ssh_priv_key,remote_user\nh1,{ENCODED},core\n", {2: ["hosts/h1", "secrets/hosts/h1", '"core"']}
    ),
    "base64 of several lines": Story(
        f'address,ssh_priv_key\nh1,"{ENCODED[:20]}\r\n{ENCODED[20:]}\n"\n',
        {2: ["hosts/h1", "secrets/hosts/h1", ENCODED]},
    ),
    "a user without a key": Story(
        "address,ssh_priv_key,remote_user\nh1,,core\n", {2: ["hosts/h1", "secrets/hosts/h1", '"ssh_priv_key":""']}
    ),
    "secrets by container and key": Story(
        'container,key,value\nbox/a,k,v\nbox,k," two ""words""\nand a line "\n',
        {2: ["secrets/box/a/k", "v"], 3: ["secrets/box/k", ' two "words"\nand a line ']},
    ),
    "secrets by container and key that lack one": Story(
        "container,key,value\n,k,v\nbox,,v\n , ,v\n",
        {2: "its container is empty", 3: "its key is empty", 4: "its container and its key are empty"},
    ),
    "secrets by name that lack one": Story("name,value\n,v\n", {2: "its name is empty"}),
    "secrets by name": Story(
        "value,name\nv,secrets/a/b\nv,a/b\nv,secrets/a\nv,secrets/a/\nv,secrets/a b/c\n",
        {
            2: ["secrets/a/b", "v"],
            3: "must begin with secrets/, as in secrets/db/password",
            4: "lies in no container, and every secret lies in one: CONTAINER/KEY",
            5: "ends in a slash, as a container's does",
            6: "do not allow",
        },
    ),
    "an empty value": Story("name,value\nsecrets/a/b,\n", {2: []}),
    "a secret where hosts keep theirs": Story("name,value\nsecrets/hosts/h1,x\n", {2: "records of HostCreds"}),
    "other names of columns": Story(
        "Hostname,User\nh1,core\n",
        {2: ["hosts/h1", "secrets/hosts/h1", '"core"']},
        {"column": ["address=Hostname", "remote_user=User"]},
    ),
    "a column called name that is the key": Story(
        "folder,type,name,login_password\nservers,login,web1,s\n",
        {2: ["secrets/servers/web1", "s"]},
        {"column": ["container=folder", "key=name", "value=login_password"]},
    ),
    "a column called name beside those that were said": Story(
        "folder,title,name,password\nservers,web2,secrets/other/place,pw\n",
        {2: ["secrets/servers/web2", "pw"]},
        {"column": ["container=folder", "key=title", "value=password"]},
    ),
    "a column called value that is the key": Story(
        "container,value,secret\nbox,k,s\n", {2: ["secrets/box/k", "s"]}, {"column": ["key=value", "value=secret"]}
    ),
    "columns of secrets in a table of hosts": Story(
        "address,name,value,User\nh1,secrets/a/b,x,core\n",
        {2: ["hosts/h1", "secrets/hosts/h1", '"core"']},
        {"column": ["address=address", "remote_user=User"]},
    ),
    "a key file beside the key that was said": Story(
        f"address,ssh_priv_key_file,Key\nh1,keys/gone.pem,{ENCODED}\n",
        {2: ["hosts/h1", "secrets/hosts/h1", ENCODED]},
        {"column": ["ssh_priv_key=Key"]},
    ),
    "a user in the address": Story("address\npi@h1\n", {2: ["hosts/h1", "secrets/hosts/h1", '"pi"']}),
    "two users": Story(
        "address,remote_user\npi@h1,root\npi@h2,pi\n", {2: "user@host", 3: ["hosts/h2", "secrets/hosts/h2", '"pi"']}
    ),
    "semicolons": Story("address;os\nh1;fedora\n", {2: ["hosts/h1", '"fedora"']}, {"delimiter": [";"]}),
    "tabs": Story("name\tvalue\nsecrets/a/b\tx,y\n", {2: ["secrets/a/b", "x,y"]}, {"delimiter": ["tab"]}),
    "another encoding": Story(
        "name,value\nsecrets/a/b,é\n", {2: ["secrets/a/b", "é"]}, {"encoding": ["latin-1"]}, "latin-1"
    ),
    "the wrong encoding": Story(
        "name,value\nsecrets/a/b,é\nsecrets/a/c,x\n", {2: "not encoded", 3: ["secrets/a/c", "x"]}, {}, "latin-1"
    ),
    "a byte order mark": Story("name,value\nsecrets/a/b,x\n", {2: ["secrets/a/b", "x"]}, {}, "utf-8-sig"),
    "windows line ends": Story(
        "address,os\r\nh1,fedora\r\n\r\nh2,fedora", {2: ["hosts/h1", "fedora"], 4: ["hosts/h2", "fedora"]}
    ),
    "blank rows": Story("\naddress,os\n,\n\nh1,\n,,\n", {5: ["hosts/h1", '"os":""']}),
    "too few and too many cells": Story(
        "address,os\nh1\nh2,a,b\nh3,fedora\n", {2: "1 cells", 3: "3 cells", 4: ["hosts/h3", "fedora"]}
    ),
    "a quote that is not closed": Story(
        'address,os\nh1,"fedora\nh2,fedora\nh3,fedora\n',
        {2: "a quote", 3: ["hosts/h2", "fedora"], 4: ["hosts/h3", "fedora"]},
    ),
    "a quote that the next row closes": Story(
        'address,os\nh1,"fedora\n"h2",fedora\nh3,"fedora"\n',
        {2: "a quote", 3: ["hosts/h2", "fedora"], 4: ["hosts/h3", "fedora"]},
    ),
    "text beside what is quoted": Story(
        'address,os\nh1,"fed"ora\nh2,fedora\n', {2: "a quote", 3: ["hosts/h2", "fedora"]}
    ),
    "a quote within a cell": Story('name,value\nsecrets/a/b,5" disk\n', {2: ["secrets/a/b", '5" disk']}),
    "what no model allows": Story(
        "address,os,cpus\nh1,windows,1\nh2,,many\nh 3,,\n,fedora,\n",
        {2: "os must be", 3: "cpus must be", 4: "address must be", 5: "address must not"},
    ),
    "a key that is none": Story("address,ssh_priv_key\nh1,hello world\n", {2: "neither PEM nor base64"}),
    "a key and a key file": Story(
        "address,ssh_priv_key,ssh_priv_key_file\nh1,QUJD,keys/a.pem\n", {2: "both a key and a key file"}
    ),
    "a key file that is missing": Story("address,ssh_priv_key_file\nh1,keys/a.pem\n", {2: "its key file is missing"}),
    "a key file that is a directory": Story(
        "address,ssh_priv_key_file\nh1,.\n", {2: "its key file is not a regular file"}
    ),
    "too much": Story(
        f"name,value\nsecrets/a/b,{'x' * (MAX_SECRET + 1)}\nsecrets/a/c,x\n",
        {2: "is over 512 KiB", 3: ["secrets/a/c", "x"]},
    ),
    "a row without end": Story(
        f"name,value\nsecrets/a/b,{'x' * 3 * MAX_ROW}\nsecrets/a/c,x\n",
        {2: "the row is over", 3: ["secrets/a/c", "x"]},
    ),
    "a cell without end": Story(
        'name,value\nsecrets/a/b,"' + f"{'x' * 1000}\n" * (MAX_ROW // 1000) + "\nsecrets/a/c,x\n",
        {2: "a quote", MAX_ROW // 1000 + 3: ["secrets/a/c", "x"]},
    ),
}


def table(directory: Path, text: str, encoding: str = "utf-8") -> Path:
    path = directory / "table.csv"
    path.write_bytes(text.encode(encoding))
    path.chmod(PRIVATE)
    return path


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens tables, and closes them."""
    sources: list[RowSource] = []

    async def open_(path: Path, **options: Sequence[str]) -> RowSource:
        source = open_source("csv", str(path), options)
        assert isinstance(source, RowSource)
        sources.append(source)
        await source.open(Digest())
        return source

    yield open_
    for source in sources:
        await source.close()


async def items_of(source: RowSource) -> dict[int, Item]:
    """Return the items by the numbers of their rows."""
    return {int(item.id.rpartition(" ")[2]): item async for item in source.items()}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_rows(story: Story, tmp_path: Path, opened: Open) -> None:
    """A row becomes records with its values, or a fault that says why, and repeats nothing of it."""
    source = await opened(table(tmp_path, story.table, story.encoding), **story.options)

    found = await items_of(source)

    assert await source.count() == len(found)
    for number, expected in story.rows.items():
        item = found[number]
        if isinstance(expected, str):
            assert expected in item.fault
            assert item.records == ()
            assert "secrets/a/b" not in item.fault
        else:
            assert item.fault == ""
            assert [record.name for record in item.records] == list(expected[:-1])
            values = [record.value.reveal() for record in item.records[-1:]]
            if values and item.records[-1].name.startswith("secrets/hosts/"):
                values = [base64.b64decode(values[0]).decode()]
            assert all(expected[-1] in value for value in values)
    if len(found) < 10:
        assert set(found) == set(story.rows)


@given(st.lists(st.lists(st.text('a",\n\r é', max_size=6), min_size=2, max_size=5), min_size=1, max_size=6))
def test_rows_are_those_of_another_reader(rows: list[list[str]]) -> None:
    """Whatever Python's csv module writes is split into the same rows and cells."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    raw, form, at, found = text.getvalue().encode(), csv_file.Csv({}), 0, []

    for length, _ in form.lengths(io.BytesIO(raw)):
        row = raw[at : at + length]
        found.append([form.text(row, cell) for cell in form.cells(row) or ()])
        at += length

    assert found == rows
    assert at == len(raw)


@given(st.text('a",\n\r').map(str.encode))
def test_rows_are_all_of_a_file(raw: bytes) -> None:
    """Whatever a file holds, its rows are the whole of it."""
    assert sum(length for length, _ in csv_file.Csv({}).lengths(io.BytesIO(raw))) == len(raw)


REFUSED: Final[Mapping[str, tuple[str, Mapping[str, Sequence[str]], str]]] = {
    "an empty file": ("", {}, "is empty"),
    "no header": ("10.0.0.7,hunter2\n", {}, "must name the columns"),
    "neither a host nor a secret": ("os,cpus\nfedora,1\n", {}, "must name the columns"),
    "both": ("address,name,value\n", {}, "and not of both"),
    "two of one name": ("address,os,os\n", {}, "two columns"),
    "a column that is not there": ("address\n", {"column": ["os=System"]}, "column=os="),
    "a field that is none": ("address\n", {"column": ["colour=red"]}, "the fields are"),
    "a field twice": ("address\n", {"column": ["os=a", "os=b"]}, "once"),
    "a field without a heading": ("address\n", {"column": ["os"]}, "FIELD=HEADER"),
    "a delimiter of two": ("address\n", {"delimiter": ["||"]}, "one character"),
    "an encoding in which rows end elsewhere": ("address\n", {"encoding": ["utf-16"]}, "convert it"),
    "an encoding that is none": ("address\n", {"encoding": ["klingon"]}, "convert it"),
    "a header in another encoding": (
        "address,größe\n".encode("latin-1").decode("latin-1"),
        {"encoding": ["ascii"]},
        "encoding=",
    ),
}


@pytest.mark.parametrize(("text", "options", "reason"), REFUSED.values(), ids=REFUSED)
async def test_refused(
    text: str, options: Mapping[str, Sequence[str]], reason: str, tmp_path: Path, opened: Open
) -> None:
    """What is no table, or is asked for wrongly, is refused with what to do; nothing of it is repeated."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        await opened(table(tmp_path, text), **options)

    assert "hunter2" not in str(caught.value)


async def test_no_file(tmp_path: Path, opened: Open) -> None:
    """A place where nothing is, or a directory, is refused."""
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigurationError, match="not a file"):
            await opened(path)


async def test_a_file_that_went_away(tmp_path: Path, opened: Open) -> None:
    """When the table is gone, every reading ends in SourceUnavailable."""
    path = table(tmp_path, "address\nh1\n")
    source = await opened(path)
    path.unlink()

    for ask in (items_of(source), source.marks(["table.csv:row 2"]), source.count()):
        with pytest.raises(SourceUnavailable, match="No such file"):
            await ask


async def test_what_stays_behind_is_said_once(tmp_path: Path, opened: Open) -> None:
    """Unknown columns, and a file that others can read, are told of with the first row alone."""
    path = table(tmp_path, "address,Größe,rack\nh1,1,2\nh2,1,2\n")
    path.chmod(0o644)

    found = await items_of(await opened(path))

    first, second = found[2].notes, found[3].notes
    assert first == (
        "columns that stay behind: Gr\\xf6\\xdfe, rack",
        "others than its owner can read table.csv: they may know what it holds",
    )
    assert second == ()


@pytest.mark.parametrize("heading", ["ssh key", "ssh-key", "SSH Private Key", "private key", "ssh-priv-key"])
async def test_a_key_column_goes_by_other_words(tmp_path: Path, opened: Open, heading: str) -> None:
    """Blanks and dashes between the words of the key's column make it no other column."""
    path = table(tmp_path, f'address,{heading}\nh1,"{KEY}"\n')
    path.chmod(PRIVATE)
    found = await items_of(await opened(path))
    assert [record.name for record in found[2].records] == ["hosts/h1", "secrets/hosts/h1"]
    assert found[2].notes == ()


async def test_a_column_that_may_be_the_key_is_told_with_the_way_to_say_so(tmp_path: Path, opened: Open) -> None:
    """Where no column is the key's, the note of one that looks like a secret has the option that makes it the key's."""
    path = table(tmp_path, f'address,login key\nh1,"{KEY}"\n')
    path.chmod(PRIVATE)
    assert (await items_of(await opened(path)))[2].notes == (
        "columns that look like secrets stay behind: login key",
        "if that is the key of its host, say so: -o 'column=ssh_priv_key=login key'",
    )
    with pytest.raises(ConfigurationError, match="several columns of the table may be ssh_priv_key"):
        await opened(table(tmp_path, "address,ssh key,private key\nh1,,\n"))


async def test_notes_of_key_files(tmp_path: Path, opened: Open) -> None:
    """A key file that others can read moves, with a note that says so; one with two names likewise."""
    path = table(tmp_path, "address,ssh_priv_key_file\nh1,a.pem\nh2,b.pem\nh3,c.pub\n")
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text(KEY)
    (tmp_path / "a.pem").chmod(0o640)
    (tmp_path / "b.pem").chmod(PRIVATE)
    (tmp_path / "d.pem").hardlink_to(tmp_path / "b.pem")
    (tmp_path / "c.pub").write_text("ssh-ed25519 AAAA")

    found = await items_of(await opened(path))

    assert "others than its owner" in str(found[2].notes[0])
    assert "hard link" in str(found[3].notes[0])
    assert "public key" in found[4].fault


async def test_a_pipe_keeps_nobody_waiting(tmp_path: Path, opened: Open) -> None:
    """A pipe in the place of a key file is a fault at once."""
    os.mkfifo(tmp_path / "pipe")

    found = await items_of(await opened(table(tmp_path, "address,ssh_priv_key_file\nh1,pipe\n")))

    assert found[2].fault == "its key file is not a regular file"


# Scrubbing.


async def scrubbed(source: RowSource, *numbers: int) -> list[Original]:
    """Scrub rows; return their originals."""
    ids = [f"table.csv:row {number}" for number in numbers]
    originals = list((await source.originals(ids)).values())
    assert await source.scrub(originals) == [True] * len(numbers)
    return originals


async def test_scrubbing_touches_cells_alone(tmp_path: Path, opened: Open) -> None:
    """Of the file nothing changes but the cells of the secrets, and its mode stays; restoring gives every byte back."""
    before = f'address , os,ssh_priv_key,remote_user\r\n"h1",fedora,"{KEY}",core\n\n h2 ,,{ENCODED},\nh3,,{ENCODED},"x"'
    path = table(tmp_path, before)
    path.chmod(0o640)
    source = await opened(path)

    originals = await scrubbed(source, 2, 5)

    assert (
        path.read_bytes().decode()
        == f'address , os,ssh_priv_key,remote_user\r\n"h1",fedora,,\n\n h2 ,,{ENCODED},\nh3,,,'
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [item.fault for item in (await items_of(source)).values()] == ["", "", ""]
    assert await source.restore(originals) == [True, True]
    assert path.read_bytes().decode() == before


async def test_a_key_file_goes_with_the_last_row_that_names_it(tmp_path: Path, opened: Open) -> None:
    """A key file that rows share stays until all of them are scrubbed, however they name it."""
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "a.pem"
    key.write_text(KEY)
    key.chmod(0o400)
    (tmp_path / "link.pem").symlink_to("keys/a.pem")
    path = table(tmp_path, f"address,ssh_priv_key_file\nh1,keys/a.pem\nh2,keys/../keys/a.pem\nh3,link.pem\nh4,{key}\n")
    source = await opened(path)
    originals = []

    for number in (2, 3, 4):
        originals += await scrubbed(source, number)
        assert key.exists()
    originals += await scrubbed(source, 5)

    assert not key.exists()
    assert await source.restore(originals[:1]) == [True]
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == (KEY, 0o400)
    assert await source.restore(originals) == [True] * 4
    assert [item.fault for item in (await items_of(source)).values()] == [""] * 4


async def test_a_run_that_was_killed_between_row_and_key_file(tmp_path: Path, opened: Open) -> None:
    """Where the row is blank and its key file still there, scrubbing again removes it; and restoring the reverse."""
    key = tmp_path / "a.pem"
    key.write_text(KEY)
    path = table(tmp_path, "address,ssh_priv_key_file\nh1,a.pem\n")
    source = await opened(path)
    (original,) = (await source.originals(["table.csv:row 2"])).values()

    path.write_text("address,ssh_priv_key_file\nh1,\n")
    assert await source.scrub([original]) == [True]
    assert not key.exists()

    key.write_text(KEY)
    assert await source.restore([original]) == [True]
    assert path.read_text() == "address,ssh_priv_key_file\nh1,a.pem\n"


async def test_a_key_file_that_changed_is_left_alone(tmp_path: Path, opened: Open) -> None:
    """Another key in the file is neither removed by scrubbing nor replaced by restoring."""
    key = tmp_path / "a.pem"
    key.write_text(KEY)
    source = await opened(table(tmp_path, "address,ssh_priv_key_file\nh1,a.pem\n"))
    (original,) = (await source.originals(["table.csv:row 2"])).values()
    key.write_text("another")

    assert await source.scrub([original]) == [False]
    assert key.read_text() == "another"

    key.write_text(KEY)
    assert await source.scrub([original]) == [True]
    key.write_text("another")
    assert await source.restore([original]) == [False]
    assert key.read_text() == "another"


async def test_a_faulty_row_is_not_scrubbed(tmp_path: Path, opened: Open) -> None:
    """What could not move keeps its secrets."""
    text = 'address,cpus,ssh_priv_key,ssh_priv_key_file\nh1,1,"hunter2,\nh2,1,,missing.pem\nh3,many,QUJD,\n'
    path = table(tmp_path, text)
    source = await opened(path)
    originals = (await source.originals([f"table.csv:row {number}" for number in (2, 3, 4)])).values()

    assert await source.scrub(list(originals)) == [False] * 3
    assert path.read_text() == text


async def test_a_link_stays_a_link(tmp_path: Path, opened: Open) -> None:
    """A table that is reached by a link is replaced where it lies."""
    path = table(tmp_path, "name,value\nsecrets/a/b,hunter2\n")
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    source = await opened(link)
    (original,) = (await source.originals(["table.csv:row 2"])).values()

    assert await source.scrub([original]) == [True]
    assert link.is_symlink()
    assert path.read_text() == "name,value\nsecrets/a/b,\n"


async def test_places(tmp_path: Path, opened: Open) -> None:
    """Copies that editors left are places to search, and what cannot be searched is named with what to do."""
    path = table(tmp_path, "name,value\nsecrets/a/b,hunter2\n")
    copies = {"table.csv~", ".table.csv.swp", "table.csv.bak", "table.bak", "#table.csv#", ".table.csv.strongroom-new"}
    for name in copies:
        (tmp_path / name).write_text("secrets/a/b,hunter2")
    (tmp_path / "other.csv").write_text("another table")
    (tmp_path / ".git").mkdir()
    source = await opened(path)

    places = {place.name: place for place in await source.places()}
    purged = await source.purge()

    reachable = {name for name, place in places.items() if place.chunks is not None}
    assert reachable == {str(path), f"the key files that {path} names", *(str(tmp_path / name) for name in copies)}
    hidden = {name for name, place in places.items() if place.chunks is None}
    assert f"the version control of {tmp_path}" in hidden
    assert f"backups of {path}" in hidden
    assert purged == [f"removed {tmp_path}/.table.csv.strongroom-new, which was left unfinished"]
    assert await source.purge() == []


async def test_a_copy_that_cannot_be_made_changes_nothing(tmp_path: Path, opened: Open) -> None:
    """Where the directory takes no new file, scrubbing says so, and the table is as it was."""
    path = table(tmp_path, "name,value\nsecrets/a/b,hunter2\n")
    source = await opened(path)
    (original,) = (await source.originals(["table.csv:row 2"])).values()
    (tmp_path / ".table.csv.strongroom-new").mkdir()

    with pytest.raises(SourceUnavailable, match="directory"):
        await source.scrub([original])

    assert path.read_text() == "name,value\nsecrets/a/b,hunter2\n"


# Many rows.


class Counting(csv_file.Csv):
    """Counts how often the file is gone through."""

    scans = 0

    def lengths(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        self.scans += 1
        return super().lengths(file)


async def test_one_scan_does_for_all_questions(tmp_path: Path) -> None:
    """The file is gone through once for all items, marks and scrubs; and once more when somebody else changed it."""
    rows = "".join(f'secrets/box/s{number},"{private_key()}"\n' for number in range(3000))
    path = table(tmp_path, f"name,value\n{rows}")
    form = Counting({})
    source = RowSource(path, form)
    await source.open(Digest())
    marks = {item.id: item.mark async for item in source.items()}
    ids = list(marks)

    for start in range(0, len(ids), 300):
        assert await source.marks(ids[start : start + 300]) == {each: marks[each] for each in ids[start : start + 300]}
        originals = (await source.originals(ids[start : start + 300])).values()
        assert all(await source.scrub(list(originals)))
    assert form.scans == 1
    assert path.read_bytes() == b"name,value\n" + b"".join(b"secrets/box/s%d,\n" % number for number in range(3000))

    with path.open("a") as file:
        file.write("secrets/box/more,hunter2\n")
    assert len(await source.marks(["table.csv:row 3002"])) == 1
    assert form.scans == 2


async def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, opened: Open) -> None:
    """A reading goes on in the file that it began with, whatever comes in its place."""
    path = table(tmp_path, "name,value\n" + "".join(f"secrets/a/s{number},x\n" for number in range(1000)))
    source = await opened(path)
    items = source.items()
    first = await anext(items)
    (tmp_path / "new").write_text("name,value\nsecrets/other/one,x\n")
    (tmp_path / "new").replace(path)

    rest = [item async for item in items]

    assert [record.name for item in [first, *rest] for record in item.records] == [
        f"secrets/a/s{number}" for number in range(1000)
    ]


async def test_a_file_that_is_written_over_while_it_is_read(tmp_path: Path, opened: Open) -> None:
    """Rows that are added are read too; where rows went away, the reading ends, because others may have been missed."""
    rows = [f"secrets/a/s{number:04},x\n" for number in range(1000)]
    path = table(tmp_path, "name,value\n" + "".join(rows))
    source = await opened(path)

    items = source.items()
    await anext(items)
    with path.open("a") as file:
        file.write("secrets/a/more,x\n")
    assert [item async for item in items][-1].records[0].name == "secrets/a/more"

    items = source.items()
    await anext(items)
    with path.open("r+") as file:
        file.write("name,value\n" + "".join(rows[1:]))
        file.truncate()
    with pytest.raises(SourceUnavailable, match="written over"):
        [item async for item in items]
