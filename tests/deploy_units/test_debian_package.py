"""The Debian package: what it holds, and what its scripts do to a machine, in a root of their own.

It is made as `make deb` makes it, of an environment without a network: that of the command alone, packed less tightly.
Starting, upgrading and removing it on a machine that systemd runs is written down in docs/adr/0041.
"""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from strongroom.deploy.tools import build_deb
from strongroom.deploy.tools.build_deb import (
    COMPLETIONS,
    CONFFILES,
    NOBODY,
    SCRIPTS,
    Making,
    debian_version,
    maintainer,
)
from tests.deploy_units.installing import copy_tree, empty, install, make_wheel
from tests.deploy_units.programs import ROOT
from tests.deploy_units.unit_files import SERVICES, SYSTEMD, UNITS

DEBIAN = ROOT / "deploy/debian"
EPOCH = 1_700_000_000
KEPT = ("secrets.key", "client.json", "proxy.json")
FORWARD = ("configure", "abort-upgrade", "abort-remove", "abort-deconfigure")
STUBS = ("systemctl", "systemd-sysusers", "deb-systemd-helper", "deb-systemd-invoke", "journalctl")
STUB = """#!/bin/sh
echo "${0##*/} $*" >> "$TOLD"
case "${0##*/} $*" in $FAILS) exit 1 ;; esac
"""
PYTHON = """#!/bin/sh
echo "python $*" >> "$TOLD"
case "$*" in
    $FAILS) exit 1 ;;
    *" keys "*) exec $PYTHON "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree as a stranger gets it."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    for name in ("docs", "requirements", "CHANGELOG.md"):
        (tree / name).symlink_to(ROOT / name)
    return tree


@pytest.fixture(scope="module")
def environment(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the command, and one package that no lock of what runs names."""
    folder = tmp_path_factory.mktemp("environment")
    install(empty(folder / "venv", source), make_wheel(source, folder), "cli", ("pytest",))
    return folder / "venv"


@pytest.fixture(scope="module")
def made(source: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package."""
    return Making(environment, "1.2.3", EPOCH, "none", source).package(tmp_path_factory.mktemp("made"))


def archive(package: Path, part: str) -> tarfile.TarFile:
    """Open the tar within *package*: what it installs (``fsys``), or what it tells dpkg (``ctrl``)."""
    done = subprocess.run(["dpkg-deb", f"--{part}-tarfile", package], capture_output=True, check=True)
    return tarfile.open(fileobj=BytesIO(done.stdout))


@pytest.fixture(scope="module")
def installed(made: Path) -> dict[str, tarfile.TarInfo]:
    """Return what the package installs, by path."""
    with archive(made, "fsys") as files:
        return {each.name.removeprefix("./"): each for each in files}


@pytest.fixture(scope="module")
def contents(made: Path) -> dict[str, bytes]:
    """Return the content of the files that the package installs, and of its own, which are below ``DEBIAN/``."""
    found = {}
    for part, below in (("fsys", ""), ("ctrl", "DEBIAN/")):
        with archive(made, part) as files:
            for each in files:
                content = files.extractfile(each) if each.isfile() else None
                if content is not None:
                    found[below + each.name.removeprefix("./")] = content.read()
    return found


def test_what_lies_where(installed: dict[str, tarfile.TarInfo]) -> None:
    """The package puts files into the places that are for them, and the environment below one folder."""
    files = {name for name, each in installed.items() if not each.isdir()}

    documents = {f"usr/share/doc/strongroom/{page.name}" for page in ROOT.glob("docs/*.md")}
    assert {name for name in files if not name.startswith("opt/strongroom/lib/")} == {
        *CONFFILES,
        *COMPLETIONS.values(),
        *documents,
        *(f"usr/lib/systemd/system/{unit}" for unit in UNITS),
        "opt/strongroom/bin/python",
        "opt/strongroom/bin/strongroom",
        "opt/strongroom/pyvenv.cfg",
        "opt/strongroom/share/steps.sh",
        "usr/bin/strongroom",
        "usr/lib/sysusers.d/strongroom.conf",
        "usr/share/doc/strongroom/changelog.gz",
        "usr/share/doc/strongroom/copyright",
        "usr/share/man/man1/strongroom.1.gz",
    }
    # What only root or the services may make is made by them: a package that held it would remove it, too.
    assert not any(name.startswith(("var", "run", "etc/systemd")) for name in installed)


def test_owners_modes_and_times(installed: dict[str, tarfile.TarInfo]) -> None:
    """All is root's, nobody else can write to it, and it is as old as was said."""
    assert {(each.uname, each.gname, each.uid, each.gid) for each in installed.values()} == {("root", "root", 0, 0)}
    assert {each.mtime for each in installed.values()} == {EPOCH}
    assert {each.mode for each in installed.values() if each.isdir()} == {0o755}
    assert {name for name, each in installed.items() if each.isfile() and each.mode != 0o644} == {
        "opt/strongroom/bin/strongroom"
    }
    assert installed["opt/strongroom/bin/strongroom"].mode == 0o755
    assert {name: each.linkname for name, each in installed.items() if each.issym()} == {
        "usr/bin/strongroom": "/opt/strongroom/bin/strongroom",
        "opt/strongroom/bin/python": f"/usr/bin/python3.{sys.version_info.minor}",
    }
    assert not [name for name, each in installed.items() if not (each.isfile() or each.isdir() or each.issym())]


def test_of_the_environment_what_is_locked(installed: dict[str, tarfile.TarInfo]) -> None:
    """What no lock of what runs names stays out, pip and byte code, too; Strongroom and what it needs is there."""
    site = f"opt/strongroom/lib/python3.{sys.version_info.minor}/site-packages/"
    tops = {name.removeprefix(site).split("/")[0] for name in installed if name.startswith(site)} - {""}

    assert tops >= {"strongroom", "click", "msgspec", "httptools", "cryptography"}
    assert not {top for top in tops if re.match(r"_?pytest|pip|setuptools|_distutils|iniconfig", top)}
    assert f"{site}strongroom/deploy/first_start.py" in installed
    assert not [name for name in installed if name.endswith((".pyc", "/RECORD", "/direct_url.json", "/INSTALLER"))]


def test_no_file_says_where_it_was_made(contents: dict[str, bytes], environment: Path, source: Path) -> None:
    """The folders of the build stand in no file, and no command starts a Python of theirs."""
    folders = (str(environment).encode(), str(source).encode())

    assert [name for name, content in contents.items() if any(folder in content for folder in folders)] == []
    command = contents["opt/strongroom/bin/strongroom"].decode()
    assert command.startswith("#!/opt/strongroom/bin/python\n")
    assert "from strongroom.deploy.command import main\n" in command


def test_units_and_settings_are_those_of_the_tree(contents: dict[str, bytes]) -> None:
    """The files of systemd, sysusers, logrotate and the settings are those that install.sh installs."""
    for unit in UNITS:
        assert contents[f"usr/lib/systemd/system/{unit}"] == (SYSTEMD / unit).read_bytes()
    assert contents["usr/lib/sysusers.d/strongroom.conf"] == (SYSTEMD / "strongroom.sysusers").read_bytes()
    assert contents["etc/strongroom/strongroom.toml"] == (SYSTEMD / "strongroom.toml").read_bytes()
    assert contents["etc/logrotate.d/strongroom"] == (SYSTEMD / "strongroom.logrotate").read_bytes()
    assert contents["opt/strongroom/share/steps.sh"] == (SYSTEMD / "steps.sh").read_bytes()
    assert all(b"ExecStart=/opt/strongroom/bin/strongroom " in (SYSTEMD / unit).read_bytes() for unit in SERVICES)


def test_what_dpkg_is_told(contents: dict[str, bytes], made: Path) -> None:
    """Version, architecture and the one Python that it is for are told, and so is every setting that is to be kept."""
    fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*(?:\n .*)*)$", contents["DEBIAN/control"].decode(), re.MULTILINE))
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout
    minor = sys.version_info.minor

    assert made.name == f"strongroom_1.2.3_{architecture.strip()}.deb"
    assert (fields["Package"], fields["Version"]) == ("strongroom", "1.2.3")
    assert fields["Architecture"] == architecture.strip()
    assert fields["Maintainer"] == "The Strongroom authors <strongroom@strongroom.invalid>"
    assert {f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})"} <= set(re.split(r",\s+", fields["Depends"]))
    assert re.search(r"libc6 \(>= 2\.\d+\)", fields["Depends"])
    assert int(fields["Installed-Size"]) >= sum(map(len, contents.values())) // 1024 * 9 // 10
    filled = contents["DEBIAN/control"] + contents["usr/share/doc/strongroom/copyright"]
    assert re.findall(rb"@[A-Z_]+@", filled) == []
    assert contents["DEBIAN/conffiles"].decode().split() == [f"/{name}" for name in CONFFILES]
    etc = {name for name in contents if name.startswith("etc/")}
    assert etc == set(CONFFILES)


def test_who_makes_it_is_its_maintainer() -> None:
    """The variables of Debian's tools say who; without an address it is nobody's, and what is no address is refused."""
    assert maintainer({"DEBFULLNAME": "Ann", "DEBEMAIL": "ann@example.org"}) == "Ann <ann@example.org>"
    assert maintainer({"DEBFULLNAME": "Ann", "DEBEMAIL": "Bob <bob@example.org>"}) == "Bob <bob@example.org>"
    assert maintainer({"DEBEMAIL": "ops@example.org"}) == "The Strongroom authors <ops@example.org>"
    assert maintainer({}) == maintainer({"DEBFULLNAME": "Ann", "DEBEMAIL": ""}) == NOBODY
    for wrong in ("ann", "ann@a b", "Ann <ann>", "<ann@a>", "ann@a\nDepends: x", "Ann\nX: <a@b>"):
        with pytest.raises(ValueError, match="DEBEMAIL"):
            maintainer({"DEBEMAIL": wrong})


def test_the_sums_are_right(contents: dict[str, bytes]) -> None:
    """`dpkg --verify` can tell each file that was changed: all but the settings have a sum, and it is theirs."""
    sums = dict(line.split("  ")[::-1] for line in contents["DEBIAN/md5sums"].decode().splitlines())

    files = {name: content for name, content in contents.items() if not name.startswith("DEBIAN/")}
    assert sums == {name: hashlib.md5(content).hexdigest() for name, content in files.items() if name not in CONFFILES}
    assert list(sums) == sorted(sums)


def test_words_are_inside(contents: dict[str, bytes]) -> None:
    """The manual page and the completions are those of this command, and each licence is named or pointed to."""
    page = gzip.decompress(contents["usr/share/man/man1/strongroom.1.gz"]).decode()

    assert page.startswith('.TH STRONGROOM 1 "2023-11-14"')
    assert ".SS " in page
    for shell, place in COMPLETIONS.items():
        assert f"_STRONGROOM_COMPLETE={shell}_complete" in contents[place].decode()
    assert contents[COMPLETIONS["zsh"]].startswith(b"#compdef strongroom\n")
    assert b" cryptography " in contents["usr/share/doc/strongroom/copyright"]
    changes = gzip.decompress(contents["usr/share/doc/strongroom/changelog.gz"])
    assert changes == (ROOT / "CHANGELOG.md").read_bytes()


def test_the_same_tree_makes_the_same_package(made: Path, source: Path, environment: Path, tmp_path: Path) -> None:
    """Made again, elsewhere and later, the package is the same, octet by octet."""
    again = Making(environment, "1.2.3", EPOCH, "none", source).package(tmp_path)

    assert again.read_bytes() == made.read_bytes()
    assert list(tmp_path.iterdir()) == [again]


def test_what_has_the_name_of_a_package_is_whole(
    source: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While dpkg-deb writes, nothing has the package's name; what was made before stays until then."""
    seen: list[list[Path]] = []
    said = build_deb._said

    def watched(*command: str, **more: str) -> str:
        done = said(*command, **more)
        if command[0] == "dpkg-deb":
            seen.append(list(tmp_path.glob("*.deb")))
        return done

    monkeypatch.setattr(build_deb, "_said", watched)
    made = Making(environment, "1.2.3", EPOCH, "none", source).package(tmp_path)

    assert seen == [[]]
    assert list(tmp_path.iterdir()) == [made]


@pytest.mark.parametrize(("pythons", "debians"), [("1.2.3", "1.2.3"), ("1.2rc1", "1.2~rc1"), ("1.2.dev3", "1.2~dev3")])
def test_what_comes_before_a_release_sorts_before_it(pythons: str, debians: str) -> None:
    """A version of Python's is written as dpkg sorts it."""
    assert debian_version(pythons) == debians
    if pythons != debians:
        assert subprocess.run(["dpkg", "--compare-versions", debians, "lt", "1.2"], check=False).returncode == 0


class Machine:
    """A root that a package was unpacked in, and programs of a machine that only tell that they were called."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._told = folder / "told"
        self._programs = folder / "programs"
        self._programs.mkdir()
        for name in STUBS:
            self._script(self._programs / name, STUB)
        self.etc = self.root / "etc/strongroom"
        self.unpack()
        self.systemd = self.root / "run/systemd/system"
        self.systemd.mkdir(parents=True)
        self.fails = "no such call"

    def unpack(self) -> None:
        """Put the files there that the scripts want."""
        here = self.root / "opt/strongroom"
        for folder in ("bin", "share", "lib/python/__pycache__"):
            (here / folder).mkdir(parents=True, exist_ok=True)
        (here / "share/steps.sh").write_bytes((SYSTEMD / "steps.sh").read_bytes())
        self._script(here / "bin/python", PYTHON)
        (here / "lib/python/__pycache__/old.pyc").touch()

    def run(self, script: str, *arguments: str, code: int = 0) -> list[str]:
        """Run a script as dpkg does; return what it has called, and then what it has said."""
        self._told.write_text("")
        environ = {
            "PATH": f"{self._programs}:/usr/bin:/bin",
            "DPKG_ROOT": str(self.root),
            "TOLD": str(self._told),
            "FAILS": self.fails,
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command: list[str | Path] = [DEBIAN / script, *arguments]
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return [*self._told.read_text().splitlines(), *done.stdout.splitlines(), *done.stderr.splitlines()]

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Return what is in the root."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in self.root.rglob("*")
        }

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine of this test's own."""
    machine = Machine(tmp_path)
    yield machine
    assert not list(tmp_path.rglob("complete"))


def called(told: list[str], *begins: str) -> list[str]:
    """Return which of the calls *told* begin so, in order."""
    return [line for line in told if line.startswith(begins)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_shell_can_read_the_scripts(script: str) -> None:
    """Each script is one of sh, ends at the first step that fails, and can be run."""
    path = DEBIAN / script

    assert path.read_text().startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in path.read_text()
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0


def test_a_first_installation(machine: Machine) -> None:
    """Users come first, then keys, then the start by the machine's policy, then the keyring; all is compiled last."""
    told = machine.run("postinst", "configure", "")

    acts = [
        f"systemd-sysusers --root={machine.root} strongroom.conf",
        "deb-systemd-helper enable strongroom-storage.socket",
        f"python -P -m strongroom.deploy.first_start keys {machine.etc}",
        "systemctl daemon-reload",
        f"deb-systemd-invoke start {' '.join(sorted(UNITS, key=told_in_steps().index))}",
        f"python -P -m strongroom.deploy.first_start keyring {machine.etc}",
        f"python -P -m compileall -q {machine.root}/opt/strongroom/lib",
    ]
    assert [line for line in told if line in acts] == acts
    assert {path.name for path in machine.etc.iterdir()} == {*KEPT, "tls"}
    assert {path.stat().st_mode & 0o777 for path in machine.etc.iterdir() if path.is_file()} == {0o600}


def told_in_steps() -> list[str]:
    """Return the units in the order of steps.sh."""
    [units] = re.findall(r'^units="(.*)"$', (SYSTEMD / "steps.sh").read_text(), re.MULTILINE)
    return units.split()


def test_both_scripts_name_every_unit() -> None:
    """`postrm`, which runs when steps.sh has gone, names the same units."""
    [units] = re.findall(r'^units="(.*)"$', (DEBIAN / "postrm").read_text(), re.MULTILINE)

    assert units.split() == told_in_steps()
    assert sorted(told_in_steps()) == sorted(UNITS)


@pytest.mark.parametrize("action", FORWARD)
def test_twice_is_once(machine: Machine, action: str) -> None:
    """Whatever dpkg runs `postinst` for, a second time changes no file: the keys are those of the first."""
    machine.run("postinst", "configure", "")
    before = machine.files()

    machine.run("postinst", action, "1.0")

    assert machine.files() == before
    assert all(before[f"etc/strongroom/{name}"][1] for name in KEPT)


def test_what_postinst_does_not_know_is_refused(machine: Machine) -> None:
    """Another word than dpkg's ends the script before it has done anything."""
    before = machine.files()

    told = machine.run("postinst", "triggered", code=1)

    assert called(told, *STUBS, "python") == []
    assert machine.files() == before


def test_where_systemd_does_not_run(machine: Machine) -> None:
    """In an image nothing is started and no key is made, which all copies would share; it says what makes them."""
    machine.systemd.rmdir()

    told = machine.run("postinst", "configure", "")

    assert called(told, "systemctl", "deb-systemd-invoke", "python -P -m strongroom") == []
    assert [path.name for path in machine.etc.iterdir()] == ["tls"]
    assert any("dpkg-reconfigure strongroom" in line for line in told)
    assert len(called(told, "deb-systemd-helper enable")) == len(UNITS)


def test_an_upgrade_stops_what_runs_and_starts_it_again(machine: Machine) -> None:
    """No process runs while files change; what ran starts again, and no byte code of the old version is left."""
    machine.run("postinst", "configure", "")
    stopped = machine.run("prerm", "upgrade", "2.0")
    assert not list(machine.root.rglob("*.pyc"))
    machine.unpack()

    started = machine.run("postinst", "configure", "1.0")

    assert called(stopped, "deb-systemd-invoke") == [f"deb-systemd-invoke stop {' '.join(told_in_steps())}"]
    [start] = called(started, "systemctl start")
    assert sorted(start.split()[2:]) == sorted(UNITS)
    assert not (machine.root / "run/strongroom.stopped").exists()


def test_what_was_stopped_stays_stopped(machine: Machine) -> None:
    """An upgrade starts nothing that the administrator has stopped."""
    machine.fails = "systemctl --quiet is-*strongroom-proxy.*"  # neither active nor failed
    machine.run("prerm", "upgrade", "2.0")
    machine.fails = "no such call"

    started = machine.run("postinst", "configure", "1.0")

    [start] = called(started, "systemctl start")
    assert start == "systemctl start strongroom-storage.socket strongroom-storage.service"


def test_a_second_attempt_remembers_what_ran(machine: Machine) -> None:
    """Where an upgrade was broken off, the next one, which finds all stopped, starts what ran before the first."""
    machine.run("prerm", "upgrade", "2.0")
    machine.fails = "systemctl --quiet is-*"
    machine.run("prerm", "upgrade", "2.0")
    machine.fails = "no such call"

    started = machine.run("postinst", "configure", "1.0")

    assert len(called(started, "systemctl start")) == 1


@pytest.mark.parametrize(
    ("fails", "says"), [("deb-systemd-invoke start*", "a service does not start"), ("*first_start keyring*", "no keys")]
)
def test_a_start_that_fails_is_told(machine: Machine, fails: str, says: str) -> None:
    """A service that does not run, or has no keys, fails the installation, says why, and is tried again by dpkg."""
    machine.fails = fails
    told = machine.run("postinst", "configure", "", code=1)
    assert any(says in line and "dpkg --configure strongroom" in line for line in told)
    machine.fails = "no such call"

    assert any("Strongroom runs" in line for line in machine.run("postinst", "configure", ""))


def test_removing_keeps_all_that_is_not_the_packages(machine: Machine) -> None:
    """After `remove`, and after it again, settings, keys, store and logs are as they were."""
    kept = lived_in(machine)

    for _ in range(2):
        machine.run("prerm", "remove")
        machine.run("postrm", "remove")

    assert kept.items() <= machine.files().items()
    assert not (machine.root / "run/strongroom.stopped").exists()


def test_a_purge_never_removes_keys_or_the_store(machine: Machine) -> None:
    """`purge`, run twice, says what it leaves, and leaves it."""
    kept = lived_in(machine)

    machine.run("postrm", "purge")
    told = machine.run("postrm", "purge")

    assert kept.items() <= machine.files().items()
    [said] = [line for line in told if "these stay" in line]
    assert said.endswith(": /etc/strongroom /var/lib/strongroom /var/log/strongroom")
    assert len(called(told, "deb-systemd-helper purge")) == len(UNITS)
    assert not (machine.etc / "tls").exists()  # empty, and made by the package


def test_a_purge_removes_what_is_empty(machine: Machine) -> None:
    """Where nothing was ever stored, nothing is left, and nothing is said."""
    machine.systemd.rmdir()
    machine.run("postinst", "configure", "")

    told = machine.run("postrm", "purge")

    assert not machine.etc.exists()
    assert not [line for line in told if "stay" in line]


def test_an_installation_of_the_installers_is_not_written_into(machine: Machine) -> None:
    """Where install.sh has made /opt/strongroom a link, `preinst` refuses, and says what the page says."""
    there = machine.root / "opt/strongroom"
    assert machine.run("preinst", "install") == []
    assert machine.run("preinst", "upgrade", "1.0") == []
    there.rename(there.with_name("strongroom-20261130-075845"))
    there.symlink_to("strongroom-20261130-075845")

    told = machine.run("preinst", "install", code=1)

    page = (ROOT / "docs/operating.md").read_text()
    typed = [line.strip() for line in told if line.startswith("    ")]
    assert len(typed) > 2
    assert [line for line in typed if f"# {line}\n" not in page] == []
    script = (SYSTEMD / "install.sh").read_text()
    assert script.index("/opt/strongroom/share/steps.sh") < script.index("make_venv")  # and the other way round


def lived_in(machine: Machine) -> dict[str, tuple[int, bytes]]:
    """Install, store something, and return what is never to go."""
    machine.run("postinst", "configure", "")
    for name in ("var/lib/strongroom/strongroom.db", "var/log/strongroom/audit.log"):
        path = machine.root / name
        path.parent.mkdir(parents=True)
        path.write_text("records")
    places = ("etc/strongroom/", "var/lib/strongroom/", "var/log/strongroom/")
    return {name: what for name, what in machine.files().items() if name.startswith(places) and what[1]}
