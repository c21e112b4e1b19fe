"""An installation adds one name to an environment, and leaves a project alone whose modules are called as our folders.

A wheel and an editable install, each in an environment of its own, beside such a project.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from strongroom.deploy.tools import links
from tests.deploy_units.installing import OFFLINE, ROOMS, Installed, copy_tree, empty

KINDS = ("wheel", "editable")
# Each line that is to be refused says so, and mypy's strict mode refuses a mark that is not needed.
PROGRAM = """
from typing import assert_type

import deploy
import http_proxy
import migration
import models
import storage_service
from strongroom import Host, Record, Secret, StorageClient
from strongroom.models import HostCreds
from strongroom.storage_service.client import StorageClient as TheSame


def told(client: StorageClient) -> str:
    assert_type(client.get(Host, "a"), Record[Host])
    assert_type(client.get(HostCreds, "a").model.ssh_priv_key, Secret)
    client.get(str, "a")  # type: ignore[type-var]
    client.get(Host, 7)  # type: ignore[arg-type]
    return client.get(Host, "a").model.address


said: str = models.MINE + deploy.MINE + migration.MINE + http_proxy.MINE + storage_service.MINE
print(said, StorageClient is TheSame, Host.__module__)
"""
TEST = """
import migration
import models
from strongroom.models import Host


def test_mine(strongroom_home: object) -> None:
    assert models.MINE + migration.MINE == "models migration "
    assert Host.prefix() == "hosts/"
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree as a stranger gets it."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module", params=KINDS)
def installed(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Return an environment with Strongroom in it; what Strongroom needs is borrowed from the one that runs this."""
    folder = tmp_path_factory.mktemp("environment")
    there = empty(folder, source)
    (there.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    what: list[str | Path] = ["--editable", source]
    if request.param == "wheel":  # from an archive of the source, which holds what builds it
        there.run("-c", f"from deploy.tools import build; build.build_sdist({str(folder)!r})", cwd=source)
        [archive] = folder.glob("strongroom-*.tar.gz")
        there.run("-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, archive, cwd=folder)
        what = [*folder.glob("strongroom-*.whl")]
    there.run("-m", "pip", "install", *OFFLINE, "--ignore-installed", *what, cwd=folder)
    return there


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of somebody else's, whose modules are called as our folders are."""
    for package in ("models", "deploy", "storage_service", "tests"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f'MINE = "{package} "\n')
    for module in ("migration", "http_proxy"):
        (tmp_path / f"{module}.py").write_text(f'MINE = "{module} "\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "tests/test_mine.py").write_text(TEST)
    return tmp_path


def test_one_name_is_added(installed: Installed, tmp_path: Path) -> None:
    """Beside what pip keeps of every package, there is one name; none of our folders' can be imported."""
    names = {path.name.partition("-")[0] for path in installed.site.iterdir()} - {"borrowed.pth", "__pycache__"}
    assert names in ({"strongroom"}, {"strongroom", "strongroom.pth"})
    code = "import importlib.util, sys; print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))"
    looked_for = (*ROOMS, "tests", "benchmarks", "docs", "strongroom")
    assert installed.run("-c", code, *looked_for, cwd=tmp_path) == "strongroom\n"


def test_a_project_with_our_folders_names_works(installed: Installed, project: Path) -> None:
    """Its program imports its own modules and ours, and our command runs in its folder."""
    said = installed.run("program.py", cwd=project)

    assert said == "models deploy migration http_proxy storage_service  True strongroom.models.hosts\n"
    shown = installed.run(installed.strongroom, "--version", cwd=project, PYTHONPATH=str(project))
    assert "strongroom" in shown


def test_its_pytest_starts(installed: Installed, project: Path) -> None:
    """Its tests run, import its own modules, and have our fixtures."""
    said = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", cwd=project)

    assert "1 passed" in said


def test_type_checkers_see_our_types(installed: Installed, project: Path) -> None:
    """In strict mode, mypy accepts its program: every type is known, and every misuse is refused."""
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed.python, "program.py"],
        cwd=project,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY"))},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr


@pytest.mark.parametrize("installed", ["editable"], indirect=True)
def test_a_new_file_is_there_at_once(installed: Installed, tmp_path: Path) -> None:
    """A module that is added to the tree can be imported without installing it anew."""
    new = installed.source / "models/added_later.py"
    new.write_text('"""New."""\n')
    try:
        assert "models/added_later.py" in installed.run(
            "-c", "from strongroom.models import added_later as new; print(new.__file__)", cwd=tmp_path
        )
    finally:
        new.unlink()


def test_links_are_mended(source: Path, tmp_path: Path) -> None:
    """Links that are missing or lead elsewhere are made anew; a folder in the way is left alone, and told."""
    tree = shutil.copytree(source, tmp_path / "tree", symlinks=True)
    links.link(tree)
    (tree / "strongroom/models").unlink()
    (tree / "strongroom/deploy").unlink()
    (tree / "strongroom/deploy").symlink_to("../elsewhere")

    assert links.link(tree) == tree / ".editable"

    folders = {room: (tree / ".editable/strongroom" / room).resolve() for room in ROOMS}
    assert folders == {room: tree / room for room in ROOMS}
    (tree / "strongroom/models").unlink()
    (tree / "strongroom/models").mkdir()
    with pytest.raises(FileExistsError, match="is in the way of a link to models/"):
        links.link(tree)


def test_this_very_run_has_one_copy_of_each_module() -> None:
    """No room was imported by its bare name by anything that these tests have run."""
    assert [room for room in ROOMS if room in sys.modules] == []
    assert importlib.util.find_spec("strongroom.models") is not None
