"""An estate that is a file of JSON lines: hosts as of old, credentials, and secrets in text and in base64."""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.migration.sources.base import Estate
from tests.migration.sources.rows import RowEstate
from tests.ssh_keys import private_key


class _Lines(RowEstate[str]):
    kind = "jsonl"
    row = "line"
    header = 0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write(b"")

    def rows(self) -> list[str]:
        return self.path.read_bytes().decode().split("\n")[:-1]

    def text(self, rows: Sequence[str]) -> bytes:
        return "".join(f"{row}\n" for row in rows).encode()

    def make(self, number: int, secret: str | None) -> tuple[str, str]:
        said = secret if secret is not None else private_key()
        encoded = base64.b64encode(said.encode()).decode()
        host = {"address": f"h{number:06}", "ssh_priv_key": encoded, "remote_user": "admin"}
        match number % 4:
            case 0:
                return json.dumps({"model": "Host", "os": "fedora", **host}), encoded
            case 1:
                return json.dumps({"model": "HostCreds", **host}), encoded
            case 2:
                return json.dumps({"name": f"secrets/box/s{number}", "value": said}, ensure_ascii=False), said
            case _:
                return json.dumps({"value_base64": encoded, "name": f"secrets/box/s{number}"}), said

    def malformed(self) -> str:
        return f'{{"name": "secrets/box/broken{self.serial()}", "value": "not closed'

    def changed(self, row: str) -> str:
        said = json.loads(row)
        fresh = private_key()
        encoded = base64.b64encode(fresh.encode()).decode()
        values = {"ssh_priv_key": encoded, "value": fresh, "value_base64": encoded}
        return json.dumps({name: values.get(name, value) for name, value in said.items()})


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Make a file of lines."""
    yield _Lines(directory / "estate.jsonl")
