"""``strongroom secret ls``: what a container holds, one page of it in memory at a time."""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import CONTAINER
from strongroom.deploy.cli.secret import naming
from strongroom.deploy.cli.words import Verb
from strongroom.storage_service.printable import printable

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient


@dataclass(slots=True)
class Count:
    """How many there are."""

    containers: int = 0
    secrets: int = 0

    def add(self, name: str) -> None:
        """Count what has this name."""
        if name.endswith("/"):
            self.containers += 1
        else:
            self.secrets += 1

    def __str__(self) -> str:
        containers = f"{self.containers:,} container{'s' if self.containers != 1 else ''}"
        return f"{containers} and {some_secrets(self.secrets)}"


def some_secrets(count: int) -> str:
    """Return *count* in words."""
    return f"{count:,} secret{'s' if count != 1 else ''}"


@click.command(cls=Verb)
@click.argument("container", default="/", shell_complete=CONTAINER)
@click.option("--recursive", "-R", is_flag=True, help="As a tree, with all that lies within, counted.")
@common_options
def ls(*, container: str, recursive: bool) -> None:
    """List what a container holds, or without one, all containers; those end in a slash."""
    bare = "" if container == "/" else naming.container_named(container)
    with client() as service:
        found = service.walk(bare) if bare or recursive else outermost(service)
        with naming.of_listed(bare):
            first = list(itertools.islice(found, 1))  # what is refused has no output
        everything = itertools.chain(first, found)
        if show.as_json():
            _document(bare, everything, counted=recursive)
        elif recursive and not show.as_raw():
            _tree(everything)
        else:
            for name in everything:
                _write(name)


def outermost(service: "StorageClient") -> Iterator[str]:
    """Yield the containers at the top of what the caller may list, a page at a time."""
    after: str | None = ""
    while after is not None:
        found, after = service.list_names(after=after)
        yield from found


def _tree(found: Iterator[str]) -> None:
    """Write each name below the container that it lies in, and in the end how many there were."""
    within: list[str] = []  # the containers that the next name may lie in, each in the one before it
    count = Count()
    for name in found:
        count.add(name)
        while within and not name.startswith(within[-1]):
            within.pop()
        _write("  " * len(within) + name.removeprefix(within[-1] if within else ""))
        if name.endswith("/"):
            within.append(name)
    _write(str(count))


def _document(container: str, found: Iterator[str], *, counted: bool) -> None:
    """Write one JSON document on one line, as the names come."""
    count = Count()
    sys.stdout.write(f'{{"container": {json.dumps(container)}, "names": [')
    for number, name in enumerate(found):
        count.add(name)
        sys.stdout.write(f"{', ' if number else ''}{json.dumps(name)}")
    sys.stdout.write("]")
    if counted:
        sys.stdout.write(f', "containers": {count.containers}, "secrets": {count.secrets}')
    sys.stdout.write("}\n")


def _write(text: str) -> None:
    # Not by way of `show`, which takes a tenth of a second for a thousand lines.
    sys.stdout.write(f"{printable(text)}\n")
