"""A directory of SSH private keys, each in a file that is named for its host's address.

    10.0.0.7          the key of the host 10.0.0.7
    web-1.pem         the key of web-1, if .pem is an ending to strip
    web-2 -> 10.0.0.7 a link inside the directory: web-2 has the key of 10.0.0.7

Keys move as they are, byte for byte, but for a spelling that ssh refuses; one with a passphrase keeps it. Directories,
public keys and ssh's own files are told and stay behind; anything else that is no private key is a fault.

Scrubbing removes a file that is as it was read, and writes zeros over what it held where no other name leads there;
whether that reaches the blocks is the file system's affair. There is no compare-and-set: a file is read again right
before it is removed.
"""

import asyncio
import base64
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Final, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item, Record
from strongroom.migration.sources import files, making, ssh_keys
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.files import File, Unfit
from strongroom.models import HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import sync_directory

OPTIONS: Final[Mapping[str, Option]] = {
    "user": Option("the remote user of all these hosts (root)"),
    "strip": Option("an ending of file names that is not part of the address, such as .pem", many=True),
}

MAX_KEY: Final = 64 * 1024  # bytes; the largest keys in use have 13 KiB
_SLICE: Final = 64  # files in one go off the event loop
_UNFINISHED: Final = files.unfinished_of(Path("*")).name  # a pattern of names
_FOREIGN: Final = frozenset({"authorized_keys", "config", "environment", "known_hosts", "known_hosts.old", "rc"})

A = TypeVar("A")
B = TypeVar("B")


def make(place: str, options: Options) -> "KeyDirectory":
    """Return the source, unopened.

    Raises:
        ConfigurationError: an option is empty.
    """
    user = next(iter(options.get("user", ())), "root")
    endings = options.get("strip", ())
    if not user or not all(endings):
        raise ConfigurationError("an option of keys has no value")
    return KeyDirectory(Path(place), user, endings)


class _Left(Exception):
    """What need not be a key; the text says what it is. It becomes the item's note."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    """The content of an original: the file, and of a link where it leads. Its repr shows nothing."""

    key: bytes
    mode: int
    owner: int
    group: int
    mtime: int  # nanoseconds
    link: str = ""

    def __repr__(self) -> str:
        return "<_Content>"


class KeyDirectory:
    """The keys in one directory, not in those below it."""

    scrub_batch: ClassVar[int] = 100

    def __init__(self, path: Path, user: str, endings: Sequence[str]) -> None:
        """Take the directory, the remote user of all hosts, and what file names may end in besides the address."""
        self._path = Path(os.path.realpath(path))
        self._user = user
        self._endings = sorted(endings, key=len, reverse=True)

    @property
    def identity(self) -> str:
        """The directory."""
        return f"keys:{self._path}"

    async def open(self, digest: Digest) -> None:
        """See that there is a directory.

        Raises:
            ConfigurationError: it is a file.
            SourceUnavailable: there is none, or it cannot be read.
        """
        self._digest = digest
        if await asyncio.to_thread(self._path.is_file):
            raise ConfigurationError(f"{self._path} is a file; give the directory that the keys lie in")
        await asyncio.to_thread(self._names)

    async def close(self) -> None:
        """Let go of nothing."""

    async def count(self) -> int | None:
        """Return how many files there are."""
        return len(await asyncio.to_thread(self._names))

    async def items(self) -> AsyncIterator[Item]:
        """Yield every file, in the order of their names."""
        found = await asyncio.to_thread(self._names)
        for start in range(0, len(found), _SLICE):
            for item in await asyncio.to_thread(self._items, found[start : start + _SLICE]):
                yield item

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the marks of those that exist."""
        return {item.id: item.mark for item in await _sliced(_names_of(ids), self._items)}

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the credentials of hosts; where several files are one host's, of the first."""
        return dict(await _sliced(names, self._credentials))

    # Scrubbing

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return keys, and what it takes to make their files anew."""
        return {original.id: original for original in await _sliced(_names_of(ids), self._originals)}

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Remove files."""
        return await _sliced(originals, lambda some: [self._remove(each) for each in some])

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Make files anew, with their owners, modes and times."""
        return await _sliced(originals, lambda some: [self._create(each) for each in some])

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the key, which for a link lies elsewhere and is searched for all the same."""
        return [_content(original).key]

    async def purge(self) -> Sequence[str]:
        """Remove what a restoring that was killed left unfinished; see that the disk knows of every removal."""
        return await asyncio.to_thread(self._purge)

    async def places(self) -> Sequence[Place]:
        """Return every file in and below the directory, and what cannot be seen from here."""
        found = await asyncio.to_thread(lambda: list(files.below(self._path)))
        links = Place(
            f"other names (hard links) that files of {self._path} had elsewhere",
            None,
            "plan tells which files have some; remove these too",
        )
        advice = "a key that did not move, or a copy of one: remove it once nobody needs it here"
        return [*(files.place(each, advice) for each in found), links, *files.out_of_reach(self._path)]

    def __repr__(self) -> str:
        return f"<KeyDirectory {self._path}>"

    # What follows blocks on the disk.

    def _names(self) -> Sequence[str]:
        """Return all names in the directory but those of files that are being made here.

        Raises:
            SourceUnavailable: it is gone, or cannot be read.
        """
        try:
            return sorted(each.name for each in self._path.iterdir() if not fnmatchcase(each.name, _UNFINISHED))
        except OSError as error:
            raise files.unavailable(self._path, error) from error

    def _items(self, some: Sequence[str]) -> Sequence[Item]:
        return [item for name in some if (item := self._item(name)) is not None]

    def _item(self, name: str) -> Item | None:
        """Return what the file *name* becomes; None: there is none."""
        key, mark = _id(name), self._digest.of(name)
        try:
            read = self._read(name)
            if read is None:
                return None
            file, _ = read
            mark = self._digest.of(file.content)
            notes = tuple(_notes(file))
            address, text = self._address(name), base64.b64encode(file.content).decode()
            if "@" in address:
                raise Unfit("its name has a user in it: rename it to its host's address, and say -o user=…")
            return Item(key, mark, (making.credentials(address, text, self._user),), notes=notes)
        except _Left as left:
            return Item(key, mark, notes=(f"it stays behind: it is {left}",))
        except Unfit as error:
            return Item(key, mark, fault=str(error))

    def _read(self, name: str) -> tuple[File, str] | None:
        """Return a file that may be a key, and where it leads if it is a link; None: there is none.

        Raises:
            Unfit, _Left: it is no key.
            SourceUnavailable: the directory cannot be read any more.
        """
        path, link = f"{self._path}/{name}", ""  # a Path would keep each of many thousands of names as a word of Python
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                link, target = str(Path(path).readlink()), Path(os.path.realpath(path))
                if target.parent != self._path or not target.is_file():
                    raise Unfit("it is a link that does not lead to a file of this directory: put the key itself here")
        except FileNotFoundError:
            self._names()  # which raises if it is the directory that is gone
            return None
        except OSError as error:
            raise files.unavailable(self._path / name, error) from error
        if stat.S_ISDIR(mode):
            raise _Left("a directory, and those are not looked into")
        if name in _FOREIGN:
            raise _Left("a file of ssh's own")
        try:
            return files.read(path, MAX_KEY), link
        except Unfit as error:
            raise Unfit(f"its file {error}") from None

    def _address(self, name: str) -> str:
        ending = next((each for each in self._endings if name.endswith(each) and name != each), "")
        return name.removesuffix(ending)

    def _credentials(self, some: Sequence[str]) -> Sequence[tuple[str, Record | None]]:
        """Return the record of each of these names that a file becomes; None for one whose file is malformed."""
        found: list[tuple[str, Record | None]] = []
        for record_name in some:
            address = record_name.removeprefix(HostCreds.prefix())
            if address == record_name or not _is_name(address):
                continue
            names = sorted({address, *(address + ending for ending in self._endings)})
            items = self._items([name for name in names if self._address(name) == address])
            meant = next((item for item in items if item.records or item.fault), None)
            if meant is not None:
                found.append((record_name, next(iter(meant.records), None)))
        return found

    def _originals(self, names: Sequence[str]) -> Sequence[Original]:
        found = []
        for name in names:
            with suppress(Unfit, _Left):
                read = self._read(name)
                if read is not None and read[0].identity is not None:
                    file, link = read
                    content = _Content(file.content, file.mode, file.owner, file.group, read[0].identity.mtime, link)
                    text = Secret(msgspec.json.encode(content).decode())
                    found.append(Original(_id(name), self._digest.of(file.content), text))
        return found

    def _remove(self, original: Original) -> bool:
        """Remove a file, or a link, that is as its original; return whether it is gone now."""
        path, content = self._path_of(original), _content(original)
        try:
            if not os.path.lexists(path):
                return True
            if content.link:
                return _remove_link(path, content)
            if path.is_symlink():
                return False
            descriptor = _opened(path)
            try:
                return files.remove(path, content.key) and _write_zeros(descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        except OSError as error:
            raise files.unavailable(path, error) from error

    def _create(self, original: Original) -> bool:
        """Make a file anew, or a link, if there is none; return whether it is as its original now."""
        path, content = self._path_of(original), _content(original)
        try:
            if content.link:
                with suppress(FileExistsError):
                    path.symlink_to(content.link)
                sync_directory(path.parent)
                return path.is_symlink() and str(path.readlink()) == content.link
            new = not os.path.lexists(path)
            made = files.create(path, File(content.key, content.mode, content.owner, content.group))
            if made and new:
                os.utime(path, ns=(content.mtime, content.mtime))
        except OSError as error:
            raise files.unavailable(path, error) from error
        return made

    def _path_of(self, original: Original) -> Path:
        (name,) = _names_of([original.id])
        return self._path / name

    def _purge(self) -> Sequence[str]:
        try:
            unfinished = list(self._path.glob(_UNFINISHED))
            for each in unfinished:
                each.unlink(missing_ok=True)
            sync_directory(self._path)
        except OSError as error:
            raise files.unavailable(self._path, error) from error
        done = [f"wrote the names that are left in {self._path} to the disk"]
        return [f"removed unfinished files: {len(unfinished)}", *done] if unfinished else done


async def _sliced(all_: Sequence[A], act: Callable[[Sequence[A]], Sequence[B]]) -> Sequence[B]:
    """Return what *act* returns for all, a few at a time off the event loop."""
    done: list[B] = []
    for start in range(0, len(all_), _SLICE):
        done += await asyncio.to_thread(act, all_[start : start + _SLICE])
    return done


def _notes(file: File) -> Iterator[str]:
    """Yield what is to be told of a private key.

    Raises:
        Unfit, _Left: it is not a private key.
    """
    if ssh_keys.is_public(file.content):
        raise _Left("a public key, or a certificate")
    try:
        ssh_keys.examine(file.content)
    except Unfit as error:
        raise Unfit(f"it {error}") from None
    if file.shared:
        yield "others than its owner may read the file: have a new key made if they could"
    if file.names > 1:
        yield "its file has other names (hard links), and they stay"


def _id(name: str) -> str:
    return quote_from_bytes(os.fsencode(name), safe="@:+=,~")


def _names_of(ids: Sequence[str]) -> Sequence[str]:
    """Return the names of files that have these ids."""
    names = [os.fsdecode(unquote_to_bytes(each)) for each in ids]
    return [name for each, name in zip(ids, names, strict=True) if _is_name(name) and _id(name) == each]


def _is_name(name: str) -> bool:
    """Whether a file in a directory can have this name."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _content(original: Original) -> _Content:
    return msgspec.json.decode(original.content.reveal(), type=_Content)


def _remove_link(path: Path, content: _Content) -> bool:
    if not path.is_symlink() or str(path.readlink()) != content.link:
        return False
    with suppress(Unfit):  # what it leads to was removed before it
        if files.read(path, MAX_KEY).content != content.key:
            return False
    path.unlink()
    sync_directory(path.parent)
    return True


def _opened(path: Path) -> int | None:
    """Return a file opened for writing over what it holds, if that is allowed."""
    with suppress(OSError):
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def _write_zeros(descriptor: int | None) -> bool:
    """Write zeros over a file that has no name any more, as well as can be; return True."""
    if descriptor is not None and os.fstat(descriptor).st_nlink == 0:
        with suppress(OSError):  # the file is gone whether or not
            os.write(descriptor, bytes(os.fstat(descriptor).st_size))
            os.fsync(descriptor)
    return True
