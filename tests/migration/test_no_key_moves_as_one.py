"""What is no private key moves as none, from any source: the table of sources, each with a host whose key is no key."""

import asyncio
import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item, Record
from strongroom.migration.sources.base import Source
from strongroom.migration.sources.reading import items_of
from strongroom.models import HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.client.bulk_operations import Write
from tests.laws.test_source_law import ESTATES
from tests.migration.sources.base import source_of
from tests.migration.sources.commissaire import host
from tests.ssh_keys import private_key

_KEY: Final = private_key("a sound one").encode()
KEYS: Final[Mapping[str, bytes]] = {
    "sound": _KEY,
    "open": _KEY.rstrip(b"\n"),
    "note": b"call me about the key of this host\n",
    "half": _KEY[: len(_KEY) // 2],
    "certificate": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "public": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAvfUQBeWlJcyb+1nxgHCvaopgExBlMOuJRFVKWuTDz6 of-nobody\n",
    "putty": b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: of nobody\n",
}
"""Keys and what is none, by the address of the host that is to have it."""
MOVE: Final = ("sound", "open")


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _creds(address: str, content: bytes) -> bytes:
    return HostCreds(address=address, ssh_priv_key=Secret(_encoded(content))).to_json()


# What puts the hosts there, in the way of each system.


def _memory(estate: Any) -> None:
    for address, content in KEYS.items():
        creds = HostCreds(address=address, ssh_priv_key=Secret(_encoded(content)))
        estate.put_records(f"hosts/{address}", [Record.of(creds)])


def _commissaire(estate: Any) -> None:
    for address, content in KEYS.items():
        estate.put_value(f"hosts/{address}", host(address, _encoded(content)))


def _custodia(estate: Any) -> None:
    for address, content in KEYS.items():
        estate.server.store(f"hosts/{address}", _creds(address, content))


def _convection(estate: Any) -> None:
    for address, content in KEYS.items():
        estate.ask("set", estate.store("hosts"), address, _encoded(_creds(address, content)))


def _openbao(estate: Any) -> None:
    for address, content in KEYS.items():
        estate.write(f"ssh/{address}", {"private_key": _encoded(content)})


def _csv_hosts(estate: Any) -> None:
    estate.write(estate.text([[address, "", "", "", _encoded(content)] for address, content in KEYS.items()]))


def _csv_secrets(estate: Any) -> None:
    estate.write(estate.text([["hosts", address, _encoded(_creds(address, each))] for address, each in KEYS.items()]))


def _csv_key_files(estate: Any) -> None:
    for address, content in KEYS.items():
        (estate.keys / address).write_bytes(content)
    estate.write(estate.text([[address, "", f"keys/{address}"] for address in KEYS]))


def _json_lines(estate: Any) -> None:
    lines = [{"model": "Host", "address": address, "ssh_priv_key": _encoded(each)} for address, each in KEYS.items()]
    estate.write(estate.text([json.dumps(line) for line in lines]))


def _ansible(estate: Any) -> None:
    for address, content in KEYS.items():
        (estate.directory / "keys" / address).write_bytes(content)
    hosts = "".join(f"{address} ansible_ssh_private_key_file=keys/{address}\n" for address in KEYS)
    (estate.directory / "hosts").write_text(hosts)


def _keys(estate: Any) -> None:
    for address, content in KEYS.items():
        estate.write(address, content)


def _strongroom(estate: Any) -> None:
    with estate.client as client:
        client.commit_bulk(
            [
                Write(HostCreds.name_of(address), Secret(_encoded(_creds(address, each))))
                for address, each in KEYS.items()
            ]
        )


PUT: Final[Mapping[str, Callable[[Any], None]]] = {
    "memory": _memory,
    "commissaire-v3": _commissaire,
    "commissaire-v2": _commissaire,
    "custodia-overlay": _custodia,
    "custodia-unpinned": _custodia,
    "custodia-store": _custodia,
    "custodia-clear": _custodia,
    "custodia-socket": _custodia,
    "convection": _convection,
    "openbao-v1": _openbao,
    "openbao-v2": _openbao,
    "csv-hosts": _csv_hosts,
    "csv-secrets": _csv_secrets,
    "csv-key-files": _csv_key_files,
    "jsonl": _json_lines,
    "ansible": _ansible,
    "keys": _keys,
    "strongroom": _strongroom,
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, for systems that have sockets in theirs."""
    with tempfile.TemporaryDirectory(prefix="sr-") as made:
        yield Path(made)


async def _read(source: Source) -> list[Item]:
    await source.open(Digest())
    try:
        return [item async for item in items_of(source)]
    finally:
        await source.close()


@pytest.mark.parametrize("kind", PUT)
def test_what_is_no_key(kind: str, directory: Path) -> None:
    """Of every source a sound key moves, one that ssh would refuse is mended and told, and the rest is a fault."""
    with ESTATES[kind].make(directory) as estate:
        PUT[kind](estate)
        items = asyncio.run(_read(source_of(estate)))

    prefix = HostCreds.prefix()
    moved = {record.name: record for item in items for record in item.records if record.name.startswith(prefix)}
    moved.pop(prefix, None)  # the container itself, where a source has it
    assert moved.keys() == {prefix + address for address in MOVE}
    for record in moved.values():
        creds = HostCreds.from_json(base64.b64decode(record.value.reveal()))
        assert base64.b64decode(creds.ssh_priv_key.reveal()) == _KEY
    notes = [str(note) for item in items for note in item.notes]
    assert sum("had no line break at its end" in note for note in notes) == 1
    told = [item for item in items if item.fault or any("it is a public key" in str(note) for note in item.notes)]
    assert len(told) == len(KEYS) - len(MOVE)


def test_the_table_is_whole() -> None:
    """No source is spared."""
    assert PUT.keys() == ESTATES.keys()
