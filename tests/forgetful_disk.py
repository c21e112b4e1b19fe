"""A disk that forgets at a power cut all that nobody brought to it: what fsync(2) and O_DSYNC did not, is gone."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Inode = tuple[int, int]


class ForgetfulDisk:
    """What a power cut would leave of some directories. All in them is on disk when it begins.

    A name is on disk when its directory was synchronized with it; content, when the file was, or is written so that it
    is. What other programs and C libraries synchronize is not seen: this is for files that Python code writes.
    """

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self._contents: dict[Inode, bytes] = {}
        self._written_through: set[Inode] = set()
        self._names = {directory: _files(directory) for directory in directories}
        self.hasty: list[str] = []
        """Names that were given to files whose content was not on disk: a cut could leave them with nothing."""
        for directory, names in self._names.items():
            self._contents |= {inode: (directory / name).read_bytes() for name, inode in names.items()}

    def left(self, directory: Path) -> dict[str, bytes]:
        """Return the files that a power cut would leave in *directory*."""
        return {name: self._content(directory / name, inode) for name, inode in self._names[directory].items()}

    def forgotten(self) -> list[Path]:
        """Return what a power cut would take away, bring back or spoil."""
        found: set[Path] = set()
        for directory in self._names:
            now, then = {name: (directory / name).read_bytes() for name in _files(directory)}, self.left(directory)
            found |= {directory / name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
        return sorted(found)

    # What the functions of `os` do more, on this disk.

    def opened(self, descriptor: int, flags: int) -> None:
        """Take note of a file that was opened."""
        status = os.fstat(descriptor)
        inode = (status.st_dev, status.st_ino)
        if flags & os.O_CREAT and status.st_size == 0:  # new, perhaps with the number of one that is gone
            self._contents.pop(inode, None)
            self._written_through.discard(inode)
        if flags & os.O_DSYNC:
            self._written_through.add(inode)

    def synchronized(self, descriptor: int) -> None:
        """Take note of what is on disk now."""
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            self._contents[(status.st_dev, status.st_ino)] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        for directory in self._names:
            if os.path.samestat(directory.stat(), status):
                self._names[directory] = _files(directory)

    def named(self, path: Path, name: Path) -> None:
        """Take note of a name that is about to be given."""
        status = path.lstat()
        inode = (status.st_dev, status.st_ino)
        if name.parent in self._names and inode not in self._written_through | self._contents.keys():
            self.hasty.append(name.name)

    def _content(self, path: Path, inode: Inode) -> bytes:
        if inode in self._written_through:
            return path.read_bytes()
        return self._contents.get(inode, b"")


@contextmanager
def forgetful_disk(*directories: Path) -> Iterator[ForgetfulDisk]:
    """Watch *directories*, without those below them, while the block runs."""
    disk = ForgetfulDisk(directories)
    with pytest.MonkeyPatch.context() as patch:
        _open, replace, link, rename = os.open, os.replace, os.link, os.rename

        def open_(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            descriptor = _open(path, flags, *arguments, **options)
            disk.opened(descriptor, flags)
            return descriptor

        def naming(call: Any) -> Any:
            def named(old: Any, new: Any, **options: Any) -> None:
                disk.named(_within(options.get("src_dir_fd"), old), _within(options.get("dst_dir_fd"), new))
                call(old, new, **options)

            return named

        def synchronizing(call: Any) -> Any:
            def synchronized(descriptor: int) -> None:
                call(descriptor)
                disk.synchronized(descriptor)

            return synchronized

        patch.setattr(os, "open", open_)
        patch.setattr(os, "fsync", synchronizing(os.fsync))
        patch.setattr(os, "fdatasync", synchronizing(os.fdatasync))
        for name, call in (("replace", replace), ("link", link), ("rename", rename)):
            patch.setattr(os, name, naming(call))
        yield disk


def _within(directory: int | None, name: Any) -> Path:
    """Return the path of *name* within what is open as *directory*, where it is given within one."""
    return Path(name) if directory is None else Path(f"/proc/self/fd/{directory}").readlink() / name


def _files(directory: Path) -> dict[str, Inode]:
    found = {each.name: each.stat(follow_symlinks=False) for each in os.scandir(directory)}
    return {name: (each.st_dev, each.st_ino) for name, each in found.items() if stat.S_ISREG(each.st_mode)}
