"""The table of JSON documents in docs/commands.md is that of the commands: each has its row, each member its place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from strongroom.deploy.cli import root
from tests.deploy.running import ROOT, Up, strongroom

PAGE: Final = ROOT / "docs" / "commands.md"
WITHOUT: Final = {
    "help": "tells what people read",
    "serve": "runs until it is ended, and says nothing",
    "key export": "writes the keyring itself, which is JSON",
}
"""Commands that print no document."""


def rows() -> dict[str, set[str]]:
    """Return the members that the table has, by the command that it has them for; `backup` is its verb `take`."""
    table = PAGE.read_text().partition("| command | document |\n|---|---|\n")[2].partition("\n\n")[0]
    told: dict[str, set[str]] = {}
    for line in table.splitlines():
        commands, document = line.removeprefix("| ").removesuffix(" |").split(" | ", 1)
        before: list[str] = []
        for said in re.findall(r"`([^`]+)`", commands):
            words = [word for word in said.split() if word.islower() and not word.startswith("-")]
            if words:  # else it is an option of the one before
                before = words if len(words) > 1 or not before else [*before[:-1], *words]
            name = " ".join(before)
            told.setdefault("backup take" if name == "backup" else name, set()).update(re.findall(r"`(\w+)`", document))
    return told


def verbs(command: click.Command, *before: str) -> Iterator[str]:
    """Yield the names of all that can be asked for below *command*."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from verbs(below, *before, name)
    else:
        yield " ".join(before)


def test_every_command_has_its_row() -> None:
    """No command that prints a document is missing, and no row is of one that there is not."""
    assert set(verbs(root.strongroom)) - WITHOUT.keys() == rows().keys()


class Told:
    """Commands that are run for their documents, which are held against the table."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.rows = rows()

    def __call__(self, command: str, *arguments: object, stdin: bytes = b"x", code: int = 0) -> Any:
        """Run one, and return its document, every member of which is in the row of *command*."""
        done = strongroom("--home", self.home, "--json", *command.split(), *arguments, stdin=stdin)
        assert done.code == code, done
        document = json.loads(done.out.splitlines()[-1])
        members = document if isinstance(document, dict) else {each for row in document for each in row}
        assert members
        assert set(members) <= self.rows[command], (command, set(members) - self.rows[command])
        return document


@pytest.fixture
def told(service: Up) -> Told:
    """Runs commands on the service."""
    return Told(service.home)


def test_secrets_and_hosts(told: Told, tmp_path: Path) -> None:
    """Of secrets, hosts and API keys."""
    key = tmp_path / "key"
    key.write_text("a key")
    told("status")
    told("secret mkdir", "told")
    told("secret put", "told/a")
    told("secret put", "told/b", "--generate", 12, "--show")
    told("secret get", "told/a")
    told("secret ls", "told")
    told("secret ls", "-R", "told")
    told("secret cp", "told/a", "told/c")
    told("secret mv", "told/c", "told/d")
    told("secret mv", "-r", "told", "told2")
    told("secret cp", "-r", "told2", "told")
    told("secret rm", "told/a")
    told("secret rm", "-r", "--yes", "told")
    told("secret mkdir", "told")
    told("secret rmdir", "told")
    told("host put", "told.example", "--force", "--ssh-key-file", key)
    told("host get", "told.example")
    told("host ls")
    told("host creds", "told.example")
    told("host rm", "told.example")
    told("apikey create", "told")
    told("apikey list")
    told("apikey revoke", "told")


def test_keys_and_backups(told: Told, tmp_path: Path) -> None:
    """Of keysets, generations, backups, and settings."""
    file, home = tmp_path / "backup", tmp_path / "restored"
    told("key status")
    told("key usage")
    told("key usage", "--scan")
    told("key keyset create", "told")
    told("key keyset list")
    told("key keyset show", "told")
    told("secret mkdir", "kept")
    told("key keyset assign", "kept", "told")
    told("key rotate keyset", "told")
    told("key reencrypt", "told")
    told("key retire", "told.1")
    told("key backup register", "told")
    told("key backup list")
    told("key backup forget", "told")
    told("backup take", file)
    told("backup verify", file)
    Told(home)("restore", file, "--key-file", told.home / "secrets.key")
    told("config show")
    told("config check")


def test_machines(tmp_path: Path) -> None:
    """Of machines, the first and another."""
    first, second = Told(tmp_path / "first"), Told(tmp_path / "second")
    first("machine config init", "--name", "one")
    public = second("machine config init", "--name", "two")["public_key"]
    first("machine init")
    first("machine authorize", public, "--name", "two")
    first("machine list")
    first("machine verify")
    (tmp_path / "expected").write_text("one\n")
    first("machine list", "--expected", tmp_path / "expected")
    first("machine revoke", "two", "--yes")


def test_migrations(told: Told, tmp_path: Path) -> None:
    """Of each verb of a migration."""
    place, kept = tmp_path / "told.jsonl", tmp_path / "report.json"
    place.write_text('{"name": "secrets/moved/a", "value": "a secret"}\n')
    place.chmod(0o600)
    told("migrate sources")
    told("migrate plan", "jsonl", place)
    told("migrate plan", "jsonl", place, "--list")
    told("migrate apply", "jsonl", place)
    run = told("migrate verify", "jsonl", place, "--report", kept)["run"]
    told("migrate check", kept)
    told("migrate status")
    told("migrate status", run)
    told("migrate scrub", run, "--yes")
    told("migrate rollback", run, "--yes")
    told("migrate forget", run, "--yes")


def test_up(service: Up) -> None:
    """Of the service that runs."""
    assert set(service.said) == rows()["up"]
