"""What a log says of an exception that nobody thought of: where it came from, and nothing of what it says."""

import asyncio
import errno
import gc
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.cli.migrate import source
from strongroom.deploy.serving import log, workers
from strongroom.http_proxy import app as proxy
from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Entry, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backends.sqlite import writer
from strongroom.storage_service.backends.sqlite.backend import SqliteBackend
from strongroom.storage_service.config import ProxySettings, ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.traces import MOST, trace_of
from tests.in_process import inside
from tests.raw_http import request

ROOT = Path(__file__).parents[2]
CANARY = "c4nary-of-a-value"
OWN = ("custodia-auth-id: own", "custodia-auth-key: own-key")


def caught(act: Callable[..., object], *arguments: object) -> Exception:
    """Return what *act* raises."""
    try:
        act(*arguments)
    except Exception as error:  # that is what is asked for
        return error
    raise AssertionError


def broken(*_: object, **__: object) -> Any:
    """Fail as a library may, that quotes what it was given."""
    raise ValueError(f"invalid value: {CANARY}")


def everything(captured: pytest.LogCaptureFixture) -> str:
    """Return all that was logged, as our two forms and the one that knows no better write it."""
    forms = (log.Plain(), log.Json(), logging.Formatter())
    return "\n".join(form.format(record) for record in captured.records for form in forms)


def test_it_names_the_class_and_our_places() -> None:
    """File, line and function of a frame of ours, and no word of the message."""
    kind, _, places = trace_of(caught(names.check, f"{CANARY}?")).partition(" at ")

    assert kind == "InvalidName"
    file, line, function = places.split(" < ")[0].split(":")
    assert (file, line.isdecimal(), function) == ("models/names.py", True, "check")
    assert CANARY not in places


def test_the_innermost_place_is_told_whosever_it_is() -> None:
    """Of another's files the last alone, by the name of its module."""
    trace = trace_of(caught(json.loads, CANARY))

    assert trace.startswith("JSONDecodeError at json.decoder:")
    assert (" < " in trace, CANARY in trace) == (False, False)


def test_an_error_of_the_system_has_its_number() -> None:
    """Its name quotes nothing and says most of what there is to say; the file's name stays out."""
    assert trace_of(caught(Path(CANARY).read_text)).startswith("FileNotFoundError (ENOENT) at ")
    assert trace_of(OSError(errno.ENOSPC, CANARY)) == "OSError (ENOSPC) at an unknown place"


def test_a_long_way_is_told_in_part() -> None:
    """However deep it broke, the line is of a length that one can read."""
    made: dict[str, Any] = {}
    text = "def deeper(left):\n    return deeper(left - 1) if left else 1 / 0\n"
    exec(compile(text, str(ROOT / "strongroom/models/deep.py"), "exec"), made)  # a file of ours that is not there

    trace = trace_of(caught(made["deeper"], 200))
    assert trace.startswith("ZeroDivisionError at models/deep.py:2:deeper < ")
    assert trace.count("deep.py") == MOST


class Breaking(MemoryBackend):
    """A store that fails by an error that nobody thought of."""

    broken = False

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Read, or not."""
        return broken() if self.broken else await super().get_many(names, limit=limit)

    async def get(self, name: str) -> Entry | None:
        """Read, or not."""
        return broken() if self.broken else await super().get(name)


async def test_the_service_tells_the_place_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request that ends in another's exception is a 500, and what that said is in no log."""
    caplog.set_level(logging.DEBUG)
    store, shared = Breaking(), SharedRoot()
    settings = ServiceSettings(
        socket=tmp_path / "s",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
    )
    app = StorageApp(settings, shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        store.broken = True
        answer = await server.ask(request("GET", "/secrets/box/a", *OWN))
    store.broken = False
    await app.close()
    shared.close()

    assert answer.status == 500
    said = everything(caplog)
    assert f"unexpected ValueError at {__name__}:" in said
    assert " < storage_service/services/secrets.py:" in said
    assert CANARY not in said + answer.body.decode() + (tmp_path / "audit.log").read_text()


async def test_the_proxy_tells_the_place_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is of what breaks in a resource of the proxy."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(proxy, "respond", broken)
    app = proxy.create_app(ProxySettings(socket=Path("/nowhere"), api_id="a", api_key=Secret("b")))
    async with inside(app) as server:
        answer = await server.ask(request("GET", "/livez"))
    await app.close()

    assert answer.status == 500
    said = everything(caplog)
    assert f"unexpected ValueError at {__name__}:" in said
    assert " < http_proxy/app.py:" in said
    assert CANARY not in said + answer.body.decode()


async def test_the_writer_of_a_store_tells_the_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is of what ends the thread that writes."""
    caplog.set_level(logging.DEBUG)
    backend = SqliteBackend(tmp_path / "store.db")
    await backend.open()
    monkeypatch.setattr(writer.Writer, "_served", broken)
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it is, for the log is what counts
        await backend.commit([Put("a", b"b")])
    await backend.close()

    said = everything(caplog)
    assert "the writer of the SQLite store has stopped: ValueError at " in said
    assert CANARY not in said


@pytest.mark.parametrize("heard", [workers._unhandled, source._heard])
async def test_the_event_loop_tells_the_place_alone(
    heard: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither the exception of a task that nobody waits for is quoted, nor the arguments of a callback."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    contexts: list[str] = []

    def hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        contexts.append(str(context))
        heard(loop, context)

    async def fail() -> None:
        broken()

    loop.set_exception_handler(hear)
    loop.call_soon(broken, CANARY)
    task = loop.create_task(fail())
    await asyncio.wait({task})
    del task
    gc.collect()  # which is when asyncio tells of it
    loop.set_exception_handler(None)

    assert len([context for context in contexts if CANARY in context]) == 2
    said = everything(caplog) + capsys.readouterr().err
    assert said.count(f"ValueError at {__name__}:") in (2, 6)  # to standard error; thrice in the log
    assert CANARY not in said


@pytest.mark.parametrize("form", [log.Plain(), log.Json()])
def test_whoever_logs_an_exception_its_text_is_not_written(form: logging.Formatter) -> None:
    """Others (gunicorn, asyncio) log tracebacks; of those, too, our log has class and places, on the line itself."""
    error = caught(names.check, f"{CANARY}?")
    info = (type(error), error, error.__traceback__)
    line = form.format(logging.LogRecord("gunicorn.error", logging.ERROR, "f", 1, "Exception in worker", (), info))

    assert "InvalidName at models/names.py:" in line
    assert (CANARY in line, "\n" in line) == (False, False)
