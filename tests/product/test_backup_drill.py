"""The pages about backups do what they say: each block of shell is run as it stands."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.running import ROOT, clean_environment, strongroom, up
from tests.etcd_server import Etcd, free_port

PAGE = ROOT / "docs" / "backup.md"
WITHIN = 120.0  # seconds for a block


@pytest.fixture
def user() -> Iterator[Path]:
    """The home of a user who has the command on the path."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    command = path / "bin" / "strongroom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m strongroom.deploy.cli "$@"\n')
    command.chmod(0o700)
    yield path
    shutil.rmtree(path)


def block(heading: str) -> str:
    """Return the shell of the page's part under *heading*, without its prompts."""
    part = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"^```console\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.sub(r"^\$ ", "", found[1], flags=re.MULTILINE)


def run(user: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run *script* as that user would; it ends at the first line that fails."""
    environ = clean_environment(HOME=str(user), PATH=f"{user}/bin:{os.environ['PATH']}")
    return subprocess.run(
        ["bash", "-ec", script], cwd=user, env=environ, capture_output=True, text=True, timeout=WITHIN, check=False
    )


def test_the_drill(user: Path) -> None:
    """Beside the running service everything is there again in another home; and nothing is left of it in the end."""
    drill = block("The drill")
    home = user / "strongroom"
    with up(home):
        strongroom("--home", home, "secret", "put", "--parents", "db/password", stdin=b"hunter2")
        before = sorted(each.name for each in user.iterdir())

        done = run(user, drill.replace("127.0.0.1:8999", f"127.0.0.1:{free_port()}"))

        assert (done.returncode, "hunter2" in done.stdout) == (0, True), done
        assert '"missing": 0, "stale": 0, "unreadable": []' in done.stdout
        assert sorted(each.name for each in user.iterdir()) == before
        assert strongroom("--home", home, "key", "backup", "list", "--json").json == {"backups": []}


def test_to_another_store(user: Path, etcd: Etcd) -> None:
    """A service moves to etcd with all it has; and the home goes on with that store alone."""
    script = block("To another store").replace("etcd://127.0.0.1:2379/strongroom", etcd.url("drill-grow"))
    home = user / "strongroom"
    ready = "until strongroom status; do sleep 1; done\n"
    begin = f"strongroom up --home {home} > up &\n{ready}"
    *first, last = script.strip().splitlines()
    look = f"{ready}strongroom secret get db/password; kill %1; wait %1\n"
    put = "printf hunter2 | strongroom secret put --parents db/password\n"
    environ = f"export STRONGROOM_HOME={home} STRONGROOM_LISTEN=127.0.0.1:0\n"

    done = run(user, environ + begin + put + "\n".join(first) + f"\n{last} &\n" + look)

    assert (done.returncode, done.stdout.count("hunter2")) == (0, 1), done
    refused = run(user, f"{environ}strongroom up --home {home} --store sqlite")
    assert (refused.returncode, "this home's records are in etcd://" in refused.stderr) == (2, True)
