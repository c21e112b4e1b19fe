"""``strongroom migrate plan --list``: where each record would go, kept on the disk until all of it is known."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Self

import click

from strongroom.deploy.cli import show

if TYPE_CHECKING:
    from strongroom.migration.compare import Decision

_IN_MEMORY: Final = 1024 * 1024  # bytes
_WOULD: Final = {  # in the words of the report
    "create": "create",
    "replace": "update",
    "present": "present",
    "keep": "keep",
    "conflict": "conflict",
}


class Listing(AbstractContextManager["Listing"]):
    """The records of a plan, as they come: a line of JSON each, and none has a value."""

    def __init__(self) -> None:
        self._lines = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115  # closed below

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def add(self, each: "Decision") -> None:
        """Take one in."""
        name = each.record.name
        line = {"item": each.item.id, "name": name, "kind": kind_of(name), "would": _WOULD[each.act.value]}
        if each.no_host:
            line["host"] = "none"
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")

    def show(self) -> None:
        """Print all: a line of JSON each for programs, and to people who sit at a terminal by their pager."""
        self._lines.seek(0)
        if show.as_json():
            for line in self._lines:
                click.echo(line, nl=False)
            return
        click.echo_via_pager(self._told())

    def _told(self) -> Iterator[str]:
        from strongroom.storage_service.printable import printable

        for line in self._lines:
            said = json.loads(line)
            told = f"{said['kind']}, {said['would']}" + (", no host yet" if "host" in said else "")
            yield printable(f"{said['item']}  ->  {said['name']}  ({told})") + "\n"


def kind_of(name: str) -> str:
    """Return what a record of that name is: a model's, a secret, a container, or an API key."""
    from strongroom.models import MODELS, names

    if names.is_container(name):
        return "container"
    if name.startswith(names.APIKEYS):
        return "API key"
    container = names.container_of(name)
    return next((model.__name__ for model in MODELS.values() if model.prefix() == container), "secret")
