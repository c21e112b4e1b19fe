"""Who may change what is believed because of where it lies: one rule for settings, logs, stores and users."""

import os
import stat
from pathlib import Path

import pytest

from strongroom.storage_service import reach
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import changed_by_others, refuse_changed_by_others

ME, GROUP = 4711, 4712
FILE, DIRECTORY = stat.S_IFREG, stat.S_IFDIR


def status(mode: int, owner: int = ME, group: int = GROUP) -> os.stat_result:
    """Return what the kernel says of a file of that mode."""
    return os.stat_result((mode, 0, 0, 0, owner, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (status(FILE | 0o644), None),
        (status(FILE | 0o644, owner=0), None),
        (status(FILE | 0o600, owner=1), "/x belongs to another user, who can change it; run: chown"),
        (status(FILE | 0o666), "can be changed by others (mode 0666); run: chmod go-w /x"),
        (status(FILE | 0o620), "mode 0620"),
        (status(FILE | 0o664, owner=0), "mode 0664"),
        (status(DIRECTORY | 0o755), None),
        (status(DIRECTORY | 0o755, owner=0), None),
        (status(DIRECTORY | 0o755, owner=1), "belongs to another user, who can change what lies there; run: chown"),
        (status(DIRECTORY | 0o770), "mode 0770"),
        (status(DIRECTORY | 0o1777, owner=0), "mode 1777"),
        (status(DIRECTORY | 0o2775, owner=0), None),  # a volume that was given to a group of ours
        (status(DIRECTORY | 0o2775, owner=0, group=1), "mode 2775"),
        (status(DIRECTORY | 0o2777, owner=0), "mode 2777"),
        (status(stat.S_IFCHR | 0o620), None),
        (status(stat.S_IFIFO | 0o622), None),
    ],
)
def test_the_rule(monkeypatch: pytest.MonkeyPatch, found: os.stat_result, fault: str | None) -> None:
    """Others may write neither file nor directory; a directory is ours, or root's, who may share it with our group."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    monkeypatch.setattr(os, "getegid", lambda: 5)
    monkeypatch.setattr(os, "getgroups", lambda: [GROUP])

    said = changed_by_others(Path("/x"), found)

    assert said is None if fault is None else fault in str(said)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, with a space in its name, of a user who is neither root nor who this is."""
    (tmp_path / "a file").touch(0o644)
    if os.geteuid() == 0:
        os.chown(tmp_path / "a file", 4242, -1)
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    return tmp_path / "a file"


def test_a_file_of_another_user_is_not_believed(foreign: Path) -> None:
    """Its owner can write it, whatever its mode says; the text says whose it has to be."""
    with pytest.raises(ConfigurationError, match=f"belongs to another user, who can change it; run: chown {ME} "):
        refuse_changed_by_others(foreign)


@pytest.mark.parametrize(
    ("place", "kinds", "believed"),
    [
        ("{}", ["ext4"], True),
        ("{}", ["fuse.sshfs", "ext4"], True),
        ("{}", ["ext4", "fuse.sshfs"], False),
        ("{}/..", ["ext4"], False),
        ("{}x", ["ext4"], False),
    ],
)
def test_a_file_that_is_mounted_by_itself_is_believed(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, place: str, kinds: list[str], believed: bool
) -> None:
    """A container's file may be whose it was on the host, in a mount of its own; a directory's, or FUSE's, may not."""
    there = os.path.normpath(place.format(foreign)).replace(" ", "\\040")
    mounts = foreign.with_name("mountinfo")
    mounts.write_text("".join(f"36 35 98:0 /m {there} rw,noatime master:1 - {kind} /dev/x rw\n" for kind in kinds))
    monkeypatch.setattr(reach, "_MOUNTS", mounts)
    foreign.with_name("link").symlink_to(foreign)

    for path in (foreign, foreign.with_name("link")):
        assert (changed_by_others(path, path.stat()) is None) is believed


def test_root_looks_at_other_users_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who checks for a service of another user is not told that its directories are another user's."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert changed_by_others(Path("/x"), status(DIRECTORY | 0o700)) is None
    assert changed_by_others(Path("/x"), status(FILE | 0o600)) is None


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    """The mode of a link, which is 0777, is none."""
    (tmp_path / "f").touch(0o600)
    (tmp_path / "l").symlink_to("f")
    refuse_changed_by_others(tmp_path / "l")
    (tmp_path / "f").chmod(0o606)
    with pytest.raises(ConfigurationError, match="run: chmod go-w"):
        refuse_changed_by_others(tmp_path / "l")


async def test_a_store_where_others_may_write_is_none(tmp_path: Path) -> None:
    """SQLite believes what lies beside its file; so nothing is made or opened where others could lay something."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "data").symlink_to("open")

    with pytest.raises(ConfigurationError, match=r"data can be changed by others \(mode 0777\)"):
        await SqliteBackend(tmp_path / "data/s.db").open()

    assert [*(tmp_path / "open").iterdir()] == []
