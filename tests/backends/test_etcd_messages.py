"""Our description of etcd's messages: compiled as it stands, and the same as another client's; that works beside us."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import ABSENT, Backend, Conflict, Put
from strongroom.storage_service.backends.etcd import messages_pb2, methods
from tests import etcd_admin_pb2, etcd_server
from tests.backends.etcd3_client import COUNTER, TIMES, describe
from tests.etcd_server import Etcd

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = ROOT / ".venv-etcd3/bin/python"  # made by `make test`
SCRIPT: Final = Path(__file__).with_name("etcd3_client.py")
PROTOS: Final = ("strongroom/storage_service/backends/etcd/messages.proto", "tests/etcd_admin.proto")


async def etcd3(*arguments: object) -> Any:
    """Return what etcd3 says, in a process and a Python of its own."""
    assert PYTHON.exists(), "etcd3 is missing: make .venv-etcd3/complete"
    process = await asyncio.create_subprocess_exec(
        PYTHON, SCRIPT, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(out)


@asynccontextmanager
async def opened(etcd: Etcd, prefix: str) -> AsyncGenerator[Backend, None]:
    """Give a backend."""
    backend = open_backend(etcd.url(prefix))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


# The description.


@pytest.mark.parametrize("proto", PROTOS)
def test_what_is_compiled_is_what_stands_there(proto: str, tmp_path: Path) -> None:
    """Compiled anew, each description gives byte for byte the modules that lie beside it."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        ".",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
    ]
    subprocess.run([*command, proto], cwd=ROOT, check=True)

    for suffix in ("_pb2.py", "_pb2.pyi"):
        module = proto.removesuffix(".proto") + suffix
        assert (tmp_path / module).read_text() == (ROOT / module).read_text(), f"compile {proto} anew; it says how"


async def test_every_field_is_etcds() -> None:
    """Each message, field and enumeration of ours has in etcd3 the name, number, type and label that it has here."""
    theirs = await etcd3("describe")
    ours = describe([messages_pb2.DESCRIPTOR, etcd_admin_pb2.DESCRIPTOR])

    for name, fields in ours["messages"].items():
        assert {field: theirs["messages"][name].get(field) for field in fields} == fields, name
    for name, values in ours["enums"].items():
        assert values.items() <= theirs["enums"][name].items(), name
    assert len(ours["messages"]) > 40
    assert len(ours["enums"]) > 4


async def test_every_call_is_etcds() -> None:
    """Each call of ours goes to a path that etcd3 knows, with the messages and streams that it knows there."""
    theirs = (await etcd3("describe"))["calls"]
    calls = [
        each for module in (methods, etcd_server) for each in vars(module).values() if isinstance(each, methods.Method)
    ]
    ours = {
        call.path: [call.request.__name__, call.answer.__name__, *(half == "stream" for half in call.shape.split("_"))]
        for call in calls
    }

    assert {path: theirs.get(path) for path in ours} == ours
    assert len(ours) > 15


def test_another_client_of_etcd_fits_into_the_process() -> None:
    """A package that calls its messages as etcd does can be loaded beside ours: no name is taken twice."""
    program = (
        "import strongroom.storage_service.backends.etcd\n"
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "for package in ('etcdserverpb', 'mvccpb', 'authpb'):\n"
        "    file = descriptor_pb2.FileDescriptorProto(name=f'{package}.proto', package=package)\n"
        "    for name in strongroom.storage_service.backends.etcd.messages_pb2.DESCRIPTOR.message_types_by_name:\n"
        "        file.message_type.add(name=name)\n"
        "    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# Side by side.


async def test_etcd3_reads_what_we_write_and_we_read_what_it_writes(etcd: Etcd) -> None:
    """On one etcd, each client sees the other's keys at their revisions, and neither makes what the other has made."""
    async with opened(etcd, "with-etcd3") as backend:
        since = await backend.commit([Put(name, name.encode(), ABSENT) for name in ("gone", "ours", "theirs")])
        told = await etcd3("tell", etcd.members[0].client_port, "/with-etcd3/")

        names = {f"/with-etcd3/{name}": [name, since] for name in ("gone", "ours", "theirs")}
        assert {key: value for key, value in told["before"].items() if "~" not in key} == names
        assert told["made"] == [True, False]
        entries = await backend.get_many(["gone", "new", "ours", "theirs"])
        seen = {f"/with-etcd3/{name}": [entry.value.decode(), entry.revision] for name, entry in entries.items()}
        assert {key: value for key, value in told["after"].items() if "~" not in key} == seen
        assert entries["theirs"].value == b"changed by etcd3"

        with pytest.raises(Conflict):
            await backend.commit([Put("new", b"", ABSENT)])
        with pytest.raises(Conflict):
            await backend.commit([Put("theirs", b"", since)])


async def test_etcd3_and_we_count_together(etcd: Etcd) -> None:
    """Where both clients add to one number at once, each comparing with what it read, no addition is lost."""
    name = COUNTER.rpartition("/")[2]
    async with opened(etcd, COUNTER.strip("/").partition("/")[0]) as backend:
        await backend.commit([Put(name, b"0")])

        async def add() -> None:
            for _ in range(TIMES):
                while True:
                    entry = await backend.get(name)
                    assert entry is not None
                    try:
                        await backend.commit([Put(name, b"%d" % (int(entry.value) + 1), entry.revision)])
                    except Conflict:
                        continue
                    break

        await asyncio.gather(add(), etcd3("increment", etcd.members[0].client_port))
        entry = await backend.get(name)
        assert entry is not None
        assert int(entry.value) == 2 * TIMES
