"""Make the Debian package, on a machine that may have nothing but python3, make and dpkg-deb.

    /usr/bin/python3 -m deploy.tools.build_deb [--version VERSION] [--into FOLDER]

The environment in it is made from the lock files, as `install.sh` makes one, and of that the package takes what the
locks of what runs name, and Strongroom. Units, sysusers and settings are those of ``deploy/systemd``, the scripts those
of ``deploy/debian``. The same tree makes the same package, octet by octet, wherever it lies: files are root's, sorted,
and as old as ``SOURCE_DATE_EPOCH``, or the last commit, says.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from . import make_venv  # noqa: TID251  # nothing is installed yet, and no link made

TREE: Final = Path(__file__).resolve().parents[2]
HOME: Final = "opt/strongroom"
SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm")
CONFFILES: Final = {
    "etc/strongroom/strongroom.toml": "deploy/systemd/strongroom.toml",
    "etc/logrotate.d/strongroom": "deploy/systemd/strongroom.logrotate",
}
COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/strongroom",
    "zsh": "usr/share/zsh/vendor-completions/_strongroom",
    "fish": "usr/share/fish/vendor_completions.d/strongroom.fish",
}
# Of the installation that pip made, not of the package: where it was, and what only pip asks for.
_PIPS_OWN: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_GLIBC: Final = re.compile(r"^Tag: .*-manylinux_(\d+)_(\d+)_", re.MULTILINE)
_AUTHORS: Final = "The Strongroom authors"
NOBODY: Final = f"{_AUTHORS} <strongroom@strongroom.invalid>"
"""The maintainer of a package that nobody answers for: dpkg wants an address, and no mail leaves for this one."""
_ADDRESSED: Final = re.compile(r"[^<>\x00-\x1f]+ <[^<>@\s]+@[^<>@\s]+>")
_BEFORE_THE_RELEASE: Final = re.compile(r"\.?(a|b|rc|dev)(?=\d)")


@dataclass(frozen=True, slots=True)
class Making:
    """What a package is made of.

    Attributes:
        environment: a virtual environment with Strongroom in it.
        version: of the package, as Debian writes it.
        epoch: how old its files are, in seconds.
        compression: of dpkg-deb's kinds.
        tree: the source tree.
        maintainer: whom to write to about the package, as ``Name <address>``.
    """

    environment: Path
    version: str
    epoch: int
    compression: str = "xz"
    tree: Path = TREE
    maintainer: str = NOBODY

    def package(self, into: Path) -> Path:
        """Make the package in the folder *into*, and return it.

        Raises:
            subprocess.CalledProcessError: Strongroom did not say its completions or its page, or dpkg-deb failed.
        """
        architecture = _said("dpkg", "--print-architecture").strip()
        root = into / "deb"
        shutil.rmtree(root, ignore_errors=True)
        others = self._put_environment(root / HOME)
        self._put_system(root)
        self._put_words(root, others)
        self._put_control(root, architecture, others)
        self._settle(root)
        made = into / f"strongroom_{self.version}_{architecture}.deb"
        options = ["--root-owner-group", "--uniform-compression", "--threads-max=1", f"-Z{self.compression}"]
        aside = made.with_name(f"{made.name}.part")
        aside.unlink(missing_ok=True)
        _said("dpkg-deb", *options, "--build", str(root), str(aside), **self._environ())
        aside.replace(made)  # compressing takes minutes, and what has the name is whole
        shutil.rmtree(root)
        return made

    @property
    def _python(self) -> str:
        """Which Python it is for, as ``3.11``."""
        [found] = self.environment.glob("lib/python3.*/site-packages")
        return found.parent.name.removeprefix("python")

    def _put_environment(self, home: Path) -> list[Distribution]:
        """Put the environment into *home*: Debian's Python, what is locked for it, and the command."""
        version = self._python
        site = self.environment / f"lib/python{version}/site-packages"
        lock = (self.tree / "requirements/run.txt").read_text(encoding="utf-8")
        wanted = {_normal(name) for name in _PINNED.findall(lock)} | {"strongroom"}
        taken = [each for each in distributions(path=[str(site)]) if _normal(each.name) in wanted]
        for each in taken:
            for file in each.files or ():
                if file.is_absolute() or ".." in file.parts or file.suffix == ".pyc" or file.name in _PIPS_OWN:
                    continue
                _copy(site / file, home / f"lib/python{version}/site-packages" / file)
        (home / "bin").mkdir()
        (home / "bin/python").symlink_to(f"/usr/bin/python{version}")
        _write(home / "pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
        [ours] = [each for each in taken if each.name == "strongroom"]
        [entry] = [each for each in ours.entry_points if each.group == "console_scripts"]
        _write(
            home / "bin" / entry.name,
            f"#!/{HOME}/bin/python\nimport sys\n\n"
            f"from {entry.module} import {entry.attr}\n\nsys.exit({entry.attr}())\n",
        )
        (home / "bin" / entry.name).chmod(0o755)
        _copy(self.tree / "deploy/systemd/steps.sh", home / "share/steps.sh")
        return sorted((each for each in taken if each is not ours), key=lambda each: _normal(each.name))

    def _put_system(self, root: Path) -> None:
        """Put what systemd, logrotate and the shell look for into their places."""
        systemd = self.tree / "deploy/systemd"
        for unit in (*systemd.glob("*.service"), *systemd.glob("*.socket")):
            _copy(unit, root / "usr/lib/systemd/system" / unit.name)
        _copy(systemd / "strongroom.sysusers", root / "usr/lib/sysusers.d/strongroom.conf")
        for place, source in CONFFILES.items():
            _copy(self.tree / source, root / place)
        (root / "usr/bin").mkdir()
        (root / "usr/bin/strongroom").symlink_to(f"/{HOME}/bin/strongroom")

    def _put_words(self, root: Path, others: list[Distribution]) -> None:
        """Put the manual page, the completions and the documentation into their places."""
        python = str(self.environment / "bin/python")
        page = root.with_name("strongroom.1")
        _said(python, "-P", str(self.tree / "deploy/tools/man.py"), str(page), **self._environ())
        _write_gzip(root / "usr/share/man/man1/strongroom.1.gz", page.read_bytes())
        page.unlink()
        for shell, place in COMPLETIONS.items():
            command = str(self.environment / "bin/strongroom")
            _write(root / place, _said(command, **self._environ(), _STRONGROOM_COMPLETE=f"{shell}_source"))
        documents = root / "usr/share/doc/strongroom"
        for document in (self.tree / "docs").glob("*.md"):
            _copy(document, documents / document.name)
        _write_gzip(documents / "changelog.gz", (self.tree / "CHANGELOG.md").read_bytes())
        site = f"/{HOME}/lib/python{self._python}/site-packages"
        licences = [f" {each.name} {each.version}: {_licence(each)} {site}/{_info(each)}/" for each in others]
        self._fill(documents / "copyright", "copyright.in", OTHERS="\n".join(licences))

    def _put_control(self, root: Path, architecture: str, others: list[Distribution]) -> None:
        """Put what dpkg asks for into ``DEBIAN``: what it is, its scripts, its settings and its sums."""
        control = root / "DEBIAN"
        files = sorted((path for path in root.rglob("*") if path.is_file() and not path.is_symlink()), key=str)
        major, minor = self._python.split(".")
        self._fill(
            control / "control",
            "control.in",
            VERSION=self.version,
            MAINTAINER=self.maintainer,
            ARCHITECTURE=architecture,
            SIZE=str(sum(-(-path.stat().st_size // 1024) for path in files)),
            PYTHON=self._python,
            NEXT_PYTHON=f"{major}.{int(minor) + 1}",
            LIBC=_libc(others),
        )
        for script in SCRIPTS:
            _copy(self.tree / "deploy/debian" / script, control / script)
            (control / script).chmod(0o755)
        _write(control / "conffiles", "".join(f"/{place}\n" for place in CONFFILES))
        summed = [path for path in files if str(path.relative_to(root)) not in CONFFILES]
        sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in summed]  # noqa: S324  # dpkg's form
        _write(control / "md5sums", "".join(sums))

    def _settle(self, root: Path) -> None:
        """Give all the modes and the times of a package; what has a mode of its own has it already."""
        for path in (root, *root.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
            os.utime(path, (self.epoch, self.epoch), follow_symlinks=False)

    def _fill(self, target: Path, template: str, **words: str) -> None:
        text = (self.tree / "deploy/debian" / template).read_text(encoding="utf-8")
        for name, word in words.items():
            text = text.replace(f"@{name}@", word)
        _write(target, text)

    def _environ(self) -> dict[str, str]:
        return {"SOURCE_DATE_EPOCH": str(self.epoch)}


def debian_version(version: str) -> str:
    """Return a version of Python's as Debian writes it: what comes before a release sorts before it."""
    return _BEFORE_THE_RELEASE.sub(r"~\1", version)


def maintainer(environ: Mapping[str, str] = os.environ) -> str:
    """Return who makes the package, as ``DEBEMAIL`` and ``DEBFULLNAME`` say to Debian's own tools; else nobody.

    Raises:
        ValueError: they say no address.
    """
    name, mail = (environ.get(variable, "").strip() for variable in ("DEBFULLNAME", "DEBEMAIL"))
    if not mail:
        return NOBODY
    said = mail if "<" in mail else f"{name or _AUTHORS} <{mail}>"
    if _ADDRESSED.fullmatch(said) is None:
        raise ValueError("DEBEMAIL is an address, or a name and an address as in: Ann <ann@example.org>")
    return said


def age(tree: Path = TREE) -> int:
    """Return how old the files of a package are: as ``SOURCE_DATE_EPOCH`` says, else the last commit or CHANGELOG."""
    said = os.environ.get("SOURCE_DATE_EPOCH")
    if said:
        return int(said)
    if (tree / ".git").exists() and shutil.which("git") is not None:
        return int(_said("git", "-C", str(tree), "log", "-1", "--format=%ct"))
    return int((tree / "CHANGELOG.md").stat().st_mtime)


def _libc(others: list[Distribution]) -> str:
    """Return the oldest glibc that all wheels run on, by their own word."""
    tags = "\n".join(each.read_text("WHEEL") or "" for each in others)
    major, minor = max(((int(major), int(minor)) for major, minor in _GLIBC.findall(tags)), default=(2, 17))
    return f"{major}.{minor}"


def _licence(each: Distribution) -> str:
    said = "License-Expression" in each.metadata
    return f"{each.metadata['License-Expression']}, see" if said else "see"


def _info(each: Distribution) -> str:
    [folder] = {file.parts[0] for file in each.files or () if file.parts[0].endswith(".dist-info")}
    return folder


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(0o644)


def _write_gzip(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content, mtime=0))
    target.chmod(0o644)


def _said(*command: str, **more: str) -> str:
    """Run *command* with nothing of ours in its environment, and return what it said."""
    hidden = ("PYTHON", "STRONGROOM_", "_STRONGROOM_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(command, env=environ | more, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def main() -> None:
    """Do what the command line says."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser = argparse.ArgumentParser(description="Make the Debian package of this source tree.")
    parser.add_argument("--version", default=debian_version(project["version"]), help="of the package [%(default)s]")
    parser.add_argument("--into", type=Path, default=TREE / "build", help="where it is made [build]")
    said = parser.parse_args()
    for program in ("dpkg", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SystemExit(f"a Debian package is made on Debian: there is no {program} here")
    if not Path(sys.executable).resolve().is_relative_to("/usr/bin"):
        raise SystemExit(f"it is made with Debian's own Python, and {sys.executable} is another: /usr/bin/python3 -m …")
    try:
        who = maintainer()
    except ValueError as error:
        raise SystemExit(str(error)) from None
    into = said.into.resolve()
    environment = into / "deb-environment"
    _remove_passing(environment)
    try:
        locks = [TREE / "requirements/build.txt", TREE / "requirements/run.txt"]
        make_venv.make(environment, locks, [str(TREE)])
        made = Making(environment, said.version, age(), maintainer=who).package(into)
    except subprocess.CalledProcessError as exc:
        raise SystemExit("the package was not made: the command above failed") from exc
    finally:
        _remove_passing(environment)
    print(made)


def _remove_passing(environment: Path) -> None:
    """Remove what was made on the way; setuptools would take from it what has gone from the tree."""
    for folder in (environment, TREE / "build/lib", *(TREE / "build").glob("bdist.*")):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
