"""How the processes log: one line a record to standard error, for people or as JSON.

    2026-11-22 09:30:00.123 WARNING strongroom.storage_service.http.app[812] request 9f2c…: unexpected error
    {"time":"2026-11-22T09:30:00.123Z","level":"warning","logger":"strongroom.storage_service.http.app","pid":812,"message":"…"}

A record whose ``next`` says what is to be done has it at its end as commands that lead here, and as JSON in a field of
that name, as it is.

What may be logged is the business of who logs: values of this project's types show no secret, and no line here adds
a request's body or header fields. Of an exception, whoever logs it, class and places are told, not its text. There is
no access log; the audit log is apart (``strongroom.storage_service.audit.log``).
"""

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from gunicorn.glogging import Logger

from strongroom.deploy.places import CLIENT
from strongroom.deploy.steps import Lead, sentence
from strongroom.models.steps import Step
from strongroom.storage_service.printable import printable
from strongroom.storage_service.traces import trace_of

_BREAK = re.compile(r"\s*\n\s*")
# What gunicorn puts before the reason why an application did not start.
_STARTUP: Final = re.compile(r"^ASGI lifespan startup failed: Lifespan startup failed: ")


def message_of(record: logging.LogRecord) -> str:
    """Return the record's text on one line: a line break in it would be another line of the log.

    What does not print is escaped: whoever reads the log on a terminal is not to be steered by what strangers sent.
    """
    return printable(_BREAK.sub(" | ", _STARTUP.sub("", record.getMessage()).strip()))


def _next_of(record: logging.LogRecord) -> Sequence[Step]:
    return getattr(record, "next", ())


class NoAccessLog(Logger):
    """The logger of gunicorn, told that there is no access log.

    With a ``logconfig_dict`` it believes that there may be one, and then puts together for every request, at a third
    of its cost, a line that nobody writes.
    """

    def _compute_access_log_enabled(self) -> bool:
        return False


class Https(logging.Filter):
    """Says https where gunicorn, which knows nothing of the TLS that we speak, says that it listens for http."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mend the record; it is always logged."""
        if record.msg.startswith("Listening at: "):
            record.msg, record.args = record.getMessage().replace("http://", "https://"), ()
        return True


class Plain(logging.Formatter):
    """A line for people; what is to be done, and where an unexpected error came from, stand at its end."""

    def __init__(self, home: str | None = None) -> None:
        """Take the home that commands are to lead to, where it is one that a command can use."""
        super().__init__()
        self._home = Path(home) if home else None

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        line = f"{when}.{record.msecs:03.0f} {record.levelname} {record.name}[{record.process}] {message_of(record)}"
        line = "; ".join([line, *(printable(sentence(step, self._lead())) for step in _next_of(record))])
        trace = _trace(record)
        return f"{line}: {trace}" if trace else line

    def _lead(self) -> Lead:
        """Return what leads to the service; a unit's home has no ``client.json``, and nobody here knows where it is."""
        return Lead(self._home if self._home is not None and (self._home / CLIENT).exists() else None)


class Json(logging.Formatter):
    """A line for machines; what is to be done, and where an unexpected error came from, are fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": message_of(record),
        }
        if following := _next_of(record):
            line["next"] = following
        if trace := _trace(record):
            line["traceback"] = trace
        return msgspec.json.encode(line).decode()


def _trace(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return printable(trace_of(error)) if error is not None else ""


def configuration(log_format: str, level: str, home: Path, *, tls: bool = False) -> dict[str, Any]:
    """Return what ``logging.config.dictConfig`` (gunicorn's ``logconfig_dict``) is told.

    Args:
        log_format: "plain" or "json".
        level: the lowest level that is logged, e.g. "INFO".
        home: where commands lead that are advised.
        tls: whether what listens over TCP speaks TLS.
    """
    formatter: type[logging.Formatter] = Json if log_format == "json" else Plain
    arguments = {} if formatter is Json else {"home": str(home)}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{formatter.__module__}.{formatter.__qualname__}", **arguments}},
        "filters": {"https": {"()": f"{Https.__module__}.{Https.__qualname__}"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
                "filters": ["https"] if tls else [],
            },
        },
        "root": {"level": level, "handlers": ["stderr"]},
        # gunicorn gives these two handlers of its own; here they are records like any other.
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True, "qualname": "gunicorn.error"},
            "gunicorn.access": {"level": level, "handlers": [], "propagate": True, "qualname": "gunicorn.access"},
        },
    }
