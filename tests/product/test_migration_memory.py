"""Memory of the whole command, on estates of many hosts: it does not grow with them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.campaign import as_many_as
from tests.deploy.running import Up, clean_environment, spawn, up
from tests.ssh_keys import in_base64

LIMIT: Final = 150  # MiB
GROWTH: Final = 16  # MiB, for many times as many: what is remembered of each lies on disk, but for a fixed part of it
HOSTS: Final = as_many_as(30_000)
KEY: Final = in_base64("any host")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One product for this module."""
    with up(tmp_path_factory.mktemp("memory") / "home") as running:
        yield running


def estate(directory: Path, number: int, model: str) -> Path:
    """Write an estate of hosts."""
    path = directory / f"{number}.jsonl"
    path.touch(0o600)
    with path.open("w") as file:
        for each in range(number):
            file.write(
                json.dumps({"address": f"{model.lower()}-{each:06}", "ssh_priv_key": KEY, "model": model}) + "\n"
            )
    return path


def peak(service: Up, verb: str, place: Path) -> tuple[int, dict[str, int]]:
    """Run a verb in a process of its own; return what it needed at most, in MiB, and what it counted."""
    weight = place.with_name("weight")
    process = spawn(
        "migrate",
        verb,
        "jsonl",
        place,
        "--json",
        environ=clean_environment(STRONGROOM_HOME=str(service.home)),
        prefix=[sys.executable, "-m", "strongroom.deploy.tools.peak", str(weight)],
    )
    said, err = process.communicate()
    assert process.returncode == 0, err
    counts: dict[str, int] = json.loads(said)["counts"]
    return int(weight.read_text()) // 1024, counts


@pytest.mark.campaign
def test_a_plan_of_many_hosts(service: Up, tmp_path: Path) -> None:
    """Many thousand hosts, each with its key inside, take no more memory than two thousand."""
    few, _ = peak(service, "plan", estate(tmp_path, 2_000, "Host"))
    many, counts = peak(service, "plan", estate(tmp_path, HOSTS, "Host"))

    assert counts == {"items": HOSTS, "create": 2 * HOSTS}
    assert many < LIMIT
    assert many - few < GROWTH


def test_an_apply_of_ten_thousand(service: Up, tmp_path: Path) -> None:
    """Ten thousand credentials that move take no more memory than two thousand."""
    few, _ = peak(service, "apply", estate(tmp_path, 2_000, "HostCreds"))
    many, counts = peak(service, "apply", estate(tmp_path, 10_000, "HostCreds"))

    assert counts == {"items": 10_000, "present": 2_000, "created": 8_000}
    assert many < LIMIT
    assert many - few < GROWTH
