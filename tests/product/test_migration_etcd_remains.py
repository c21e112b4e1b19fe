"""What etcd keeps of a scrub: the commands of docs/migration.md are run, on one member and on three."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.running import Done, clean_environment, strongroom, up
from tests.etcd_server import LOOPBACK, Etcd, binary, running
from tests.product.test_migration_story import old_estate, told

_PAGE: Final = Path(__file__).parents[2] / "docs" / "migration.md"
_TITLE: Final = "### What etcd keeps, and the commands that end it"


def blocks() -> list[list[str]]:
    """Return the blocks of commands of that section, without their prompts."""
    section = _PAGE.read_text().partition(_TITLE)[2].partition("\n### ")[0]
    found = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [[line[2:] for line in block.splitlines()] for block in found]


class Machines:
    """The members as the page has them: each a machine of its own, on which commands are typed."""

    def __init__(self, etcd: Etcd, directory: Path) -> None:
        self._etcd = etcd
        self._directory = directory

    def type(self, lines: list[str], number: int) -> None:
        """Run *lines* on one machine."""
        for line in lines:
            self._run(self._there(line, number), number)

    def _there(self, line: str, number: int) -> str:
        """Return a line with the places of the test, as it is typed on that machine."""
        for each, member in enumerate(self._etcd.members):
            line = line.replace(f"m{each}=http://10.0.0.{each + 1}:2380", member.peer)
        mine = self._etcd.members[number]
        line = line.replace("http://10.0.0.1:2380", f"http://{LOOPBACK}:{mine.peer_port}")
        line = line.replace("http://127.0.0.1:2379", f"http://{mine.endpoint}")
        line = line.replace("/var/lib/etcd/m0", f"/var/lib/etcd/m{number}").replace("--name m0", f"--name m{number}")
        line = line.replace("/var/lib/etcd/old", f"/var/lib/etcd/old{number}")
        return line.replace("/var/lib/etcd", str(self._directory))

    def _run(self, line: str, number: int) -> None:
        member = self._etcd.members[number]
        match line.split():
            case ["systemctl", "stop", "etcd"]:
                member.kill()
            case ["systemctl", "start", "etcd"]:
                member.start()
            case ["chown", *_]:
                pass  # all runs as one user here
            case ["etcdctl", *rest]:
                etcdctl = Path(binary()).with_name("etcdctl")
                subprocess.run([etcdctl, *rest], check=True, capture_output=True, timeout=60)
            case ["mv", old, new]:
                Path(old).rename(new)
            case ["rm", "-r", old]:
                shutil.rmtree(old)
            case _:
                raise AssertionError(f"nobody knows how to type {line}")


@contextmanager
def scrubbed(directory: Path, members: int) -> Iterator[tuple[Etcd, Path, list[str]]]:
    """Give an etcd whose records have moved into a service beside it and were scrubbed, its home, and the run."""
    with running(directory, members) as etcd, up(directory / "home") as service:
        old_estate(etcd)
        data = [word for member in etcd.members for word in ("-o", f"data_dir={directory / member.name}")]
        source = ["commissaire", f"etcd://{etcd.endpoints}", *data]
        assert migrate(service.home, "apply", *source).code == 0
        assert migrate(service.home, "verify", *source).code == 0
        remains = migrate(service.home, "scrub", *source, "--yes", "--json")
        assert remains.code == 2
        assert all("/wal/" in place for place, _ in told(remains, "found"))
        yield etcd, service.home, source


def migrate(home: Path, verb: str, *words: str) -> Done:
    """Run a verb."""
    return strongroom("migrate", verb, *words, "--json", environ=clean_environment(STRONGROOM_HOME=str(home)))


def clean(home: Path, source: list[str], etcd: Etcd) -> None:
    """The search that the page ends with finds nothing, and all can still be taken back."""
    last = blocks()[-1]
    assert [shlex.split(line)[:5] for line in last] == [["strongroom", "migrate", "scrub", "RUN", "--search-only"]]
    searched = migrate(home, "scrub", *source, "--search-only", "--json")
    assert searched.code == 0, searched.out
    assert told(searched, "found") == []
    assert searched.json["counts"]["searched"] > 0
    rolled_back = migrate(home, "rollback", *source, "--yes")
    assert rolled_back.code == 0, rolled_back.out
    with etcd.admin() as admin:
        assert (
            b'"ssh_priv_key": ""' not in admin.keys("/commissaire/hosts/10.0.0.1")["/commissaire/hosts/10.0.0.1"].value
        )


def test_one_member(tmp_path: Path) -> None:
    """The commands for one member leave no secret in its files, and the records with the revisions they had."""
    with scrubbed(tmp_path, 1) as (etcd, home, source):
        Machines(etcd, tmp_path).type(blocks()[0], 0)
        etcd.members[0].wait()
        clean(home, source, etcd)


def test_three_members(tmp_path: Path) -> None:
    """The commands for three members leave no secret in the files of any of them."""
    with scrubbed(tmp_path, 3) as (etcd, home, source):
        machines = Machines(etcd, tmp_path)
        snapshot, stop = blocks()[1]
        machines.type([snapshot], 0)
        for number in range(3):
            machines.type([stop], number)
        for number in range(3):
            machines.type(blocks()[2], number)
        for member in etcd.members:
            member.wait()
        clean(home, source, etcd)


@pytest.mark.parametrize("block", range(4))
def test_the_page_has_them(block: int) -> None:
    """The page has the blocks that these tests run, and each has a command."""
    assert len(blocks()) == 4
    assert blocks()[block]
