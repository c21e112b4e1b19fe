"""How the processes log: a record a line."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.serving import log
from strongroom.models.steps import Step


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    name = "strongroom.storage_service.http.app"
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments, **more)


def test_a_json_line_has_the_fields_of_the_schema() -> None:
    """Machines find time, level, logger, process and message."""
    line = json.loads(log.Json().format(record("request %s", "9f", exc_info=None)))

    assert set(line) == {"time", "level", "logger", "pid", "message"}
    assert (line["level"], line["logger"], line["message"]) == (
        "warning",
        "strongroom.storage_service.http.app",
        "request 9f",
    )
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("formatter", [log.Plain(), log.Json()])
def test_a_message_is_one_line(formatter: logging.Formatter) -> None:
    """A line break in a message would be a forged line of the log."""
    line = formatter.format(record("harmless\n2026-11-22 CRITICAL forged", exc_info=None))

    assert "\n" not in line
    assert "harmless | 2026-11-22 CRITICAL forged" in line


@pytest.mark.parametrize("formatter", [log.Plain(), log.Json()])
def test_what_does_not_print_is_escaped(formatter: logging.Formatter) -> None:
    """Nothing that was sent moves a cursor or hides a part of the log."""
    sent = "a\x1b[2J\x7f\x9b31m\u202eb"
    text = formatter.format(record("told %s", sent, exc_info=None))

    assert all(char.isprintable() for char in text)
    assert text.count("202eb") == 1


def test_where_an_error_came_from_is_told() -> None:
    """Its class and place stand at the end of the line for people, and in a field of the one for machines."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        broken = record("broken", exc_info=sys.exc_info())

    assert json.loads(log.Json().format(broken))["traceback"].startswith(f"ZeroDivisionError at {__name__}:")
    assert f" broken: ZeroDivisionError at {__name__}:" in log.Plain().format(broken)


def test_why_an_application_did_not_start_stands_alone() -> None:
    """What gunicorn puts before the reason is left out."""
    started = record("ASGI lifespan startup failed: %s", "Lifespan startup failed: the key is gone", exc_info=None)

    assert log.message_of(started) == "the key is gone"


def test_what_is_to_be_done_is_told(tmp_path: Path) -> None:
    """For people it is a command that leads to a home with the key to it, for machines a step as it is."""
    told = record("locked", exc_info=None)
    told.next = (Step("unlock it", "key unlock"),)
    home = tmp_path / "our home"
    home.mkdir()
    plain = log.Plain(str(home))

    assert plain.format(told).endswith("locked; unlock it: strongroom key unlock")
    (home / "client.json").touch()
    assert plain.format(told).endswith(f"locked; unlock it: strongroom --home '{home}' key unlock")
    assert json.loads(log.Json().format(told))["next"] == [{"reason": "unlock it", "verb": "key unlock", "options": {}}]
