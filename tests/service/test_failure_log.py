"""Requests that failed: what is said of the fate of a write, and how they are told in the log."""

import asyncio
import json
import logging

import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import not_applied
from strongroom.storage_service.errors import Fate, Locked, Unavailable
from strongroom.storage_service.failure_log import MOST, FailureLog


async def test_the_first_is_told_at_once_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Of a thousand refusals for one reason there are two lines, with the reason and the fate; then it begins anew."""
    failures = FailureLog(period=0.05)
    for number in range(1000):
        failures.tell(not_applied("the store is full (SQLITE_FULL)"), f"r{number}")
    assert caplog.messages == ["request r0 was refused (unavailable, not-applied): the store is full (SQLITE_FULL)"]

    async with asyncio.timeout(10):
        while len(caplog.messages) < 2:
            await asyncio.sleep(0.01)
    assert caplog.messages[1] == (
        "999 more requests were refused (unavailable, not-applied): the store is full (SQLITE_FULL)"
    )
    async with asyncio.timeout(10):
        while failures._more:
            await asyncio.sleep(0.01)
    failures.tell(not_applied("the store is full (SQLITE_FULL)"), "again")
    assert len(caplog.messages) == 3
    failures.close()


async def test_each_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Another fate is another reason; a locked service is no warning; what was counted is told at the end."""
    caplog.set_level(logging.INFO)
    failures = FailureLog()
    for error in (not_applied("a"), Unavailable("a", Fate.UNKNOWN), Locked("the service is locked"), not_applied("a")):
        failures.tell(error, "r")
    failures.close()

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "WARNING"]
    assert "1 more" in caplog.messages[-1]


async def test_there_is_an_end_of_reasons(caplog: pytest.LogCaptureFixture) -> None:
    """However many reasons there are, lines and memory stay few."""
    failures = FailureLog()
    for number in range(10 * MOST):
        failures.tell(not_applied(f"reason {number}"), "r")
    assert len(caplog.messages) == len(failures._more) == MOST + 1
    failures.close()


@pytest.mark.parametrize("code", wire.PROBLEMS)
@pytest.mark.parametrize("fate", [None, *Fate])
def test_the_fate_crosses_the_wire(code: str, fate: Fate | None) -> None:
    """Whatever fails says the fate; a refusal that says none applied nothing; and the client's error has the same."""
    error = wire.PROBLEMS[code].error.__new__(wire.PROBLEMS[code].error)
    Exception.__init__(error, "why")
    error.__dict__ |= {"faults": (), "holders": (), "wait": 1.0, "limit": 0, "allowed": (), "retry_after": None}
    if fate is not None or code in ("unavailable", "busy"):
        error.fate = fate or Fate.NOT_APPLIED
    status, _, body = wire.problem_response(error, "r")

    said = json.loads(body).get("fate")
    assert said == error.fate or (said is None and error.fate is Fate.NOT_APPLIED and status not in (500, 503))
    assert wire.error_of(status, body).fate is error.fate
