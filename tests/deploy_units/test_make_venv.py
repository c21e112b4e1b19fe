"""An environment is whole or is not there."""

import subprocess
from pathlib import Path

import pytest

from strongroom.deploy.tools.make_venv import make

MISSING = "no-such-package==1.0 --hash=sha256:" + 64 * "0" + "\n"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pip from asking any index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_a_half_made_environment_is_made_anew(tmp_path: Path) -> None:
    """What a killed run left behind goes, and the mark of completeness comes last."""
    lock, environment = tmp_path / "lock.txt", tmp_path / "venv"
    lock.touch()
    environment.mkdir()
    (environment / "left-over").touch()

    make(environment, [lock], [])

    assert (environment / "complete").exists()
    assert (environment / "bin/python").exists()
    assert not (environment / "left-over").exists()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """When a package cannot be had, no environment stays that looks like one."""
    lock, environment = tmp_path / "lock.txt", tmp_path / "venv"
    lock.write_text(MISSING)

    with pytest.raises(subprocess.CalledProcessError):
        make(environment, [lock], [])

    assert not environment.exists()


def test_a_package_without_a_hash_is_refused(tmp_path: Path) -> None:
    """A pin alone is not enough: what arrives must be what was locked."""
    lock = tmp_path / "lock.txt"
    lock.write_text("no-such-package==1.0\n")

    with pytest.raises(subprocess.CalledProcessError):
        make(tmp_path / "venv", [lock], [])
