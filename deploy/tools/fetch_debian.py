"""Get programs from Debian's archive without installing them: no root, no service started, nothing outside ``.tools``.

    python3 -m deploy.tools.fetch_debian COMMAND=PACKAGE...

A command that is on the PATH already is left as it is. Any other is unpacked below ``.tools`` with those of its
package's dependencies that the machine lacks, and gets a starter in ``.tools/bin``. apt checks the archive's
signatures as always.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / ".tools"
UNPACKED = TOOLS / "debian"
BIN = TOOLS / "bin"
_LIBRARIES = ("lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/systemd")
_OPTIONS = ("-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1")
_NEW_PACKAGE = re.compile(r"^Inst (\S+) \(", re.MULTILINE)  # an upgrade has its old version in brackets there


class NotFetchedError(Exception):
    """A package could not be had: no apt on this machine, no such package, or no archive within reach."""


def command(name: str, package: str) -> None:
    """Make *name* runnable with ``.tools/bin`` on the PATH; *package* is what brings it on Debian.

    Raises:
        NotFetchedError: *name* is not here and *package* could not be had.
    """
    starter = BIN / name
    if starter.exists() or shutil.which(name) is not None:
        return
    unpack(package)
    programs = [UNPACKED / place / name for place in ("usr/bin", "usr/sbin", "bin", "sbin")]
    program = next(filter(Path.exists, programs), None)
    if program is None:
        raise NotFetchedError(f"Debian's package {package} holds no command {name}")
    BIN.mkdir(parents=True, exist_ok=True)
    draft = starter.with_name(f".{name}")
    draft.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{_libraries()}" exec "{program}" "$@"\n', encoding="utf-8")
    draft.chmod(0o755)
    draft.rename(starter)


def unpack(package: str) -> None:
    """Unpack *package*, and what it needs that is not installed here, below ``.tools/debian``.

    Raises:
        NotFetchedError: it could not be had.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotFetchedError(f"this is not Debian: install what Debian calls {package}")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _download(package, Path(scratch), [])
        except subprocess.CalledProcessError:
            _download(package, Path(scratch), _own_lists())
        UNPACKED.mkdir(parents=True, exist_ok=True)
        for archive in sorted(Path(scratch).glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(archive), str(UNPACKED)])


def _libraries() -> str:
    return ":".join(str(path) for pattern in _LIBRARIES for path in sorted(UNPACKED.glob(pattern)))


def _own_lists() -> list[str]:
    """Fetch the archive's lists into ``.tools/apt`` and return the options that make apt read them there."""
    lists, cache = TOOLS / "apt/lists", TOOLS / "apt/cache"
    for folder in (lists / "partial", cache / "archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
    try:
        _run(["apt-get", *_OPTIONS, *options, "update"])
    except subprocess.CalledProcessError as exc:
        raise NotFetchedError(f"apt-get update failed: {_last_line(exc)}") from exc
    return options


def _download(package: str, into: Path, options: list[str]) -> None:
    try:
        plan = _run(["apt-get", *_OPTIONS, *options, "install", "--simulate", "--no-install-recommends", package])
        missing = _NEW_PACKAGE.findall(plan) or [package]
        _run(["apt-get", *_OPTIONS, *options, "download", *missing], cwd=into)
    except subprocess.CalledProcessError as exc:
        if options:
            raise NotFetchedError(f"apt-get could not get {package}: {_last_line(exc)}") from exc
        raise


def _run(arguments: list[str], cwd: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def _last_line(exc: subprocess.CalledProcessError) -> str:
    lines = str(exc.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {exc.returncode}"


def main() -> None:
    """Get every command named on the command line."""
    for wish in sys.argv[1:]:
        name, _, package = wish.partition("=")
        try:
            command(name, package)
        except NotFetchedError as exc:
            raise SystemExit(f"{name} is needed: {exc}") from exc


if __name__ == "__main__":
    main()
