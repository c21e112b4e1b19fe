"""What a screen and a page look like: texts break between words, keys between groups, commands nowhere."""

import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from shamir_mnemonic.wordlist import WORDLIST

from strongroom.deploy.cli import show
from strongroom.deploy.cli.root import strongroom as root
from strongroom.deploy.tools import man
from tests.deploy.running import clean_environment, strongroom, up

NARROW = 40  # columns


def narrow(**more: str) -> dict[str, str]:
    """Return the environment of a narrow terminal that knows no colours."""
    return clean_environment(COLUMNS=str(NARROW), TERM="dumb", **more)


@pytest.mark.parametrize(
    "words",
    [("secret", "get", "alone"), ("secrt",), ("secret", "put", "--replace", "--if-match", "1", "a/b"), ("key", "x")],
    ids=" ".join,
)
def test_a_message_breaks_between_words(words: tuple[str, ...]) -> None:
    """At a terminal no line is longer than it is wide, and no word is cut; a pipe gets the same words in one line."""
    piped = strongroom(*words, environ=narrow())
    seen = strongroom(*words, environ=narrow(), terminal=True)

    lines = seen.err.splitlines()
    assert max(map(len, lines)) <= NARROW
    assert seen.err.split() == piped.err.split()
    assert (len(lines) > 1, piped.err.count("\n")) == (True, 1)


def test_a_command_stays_whole(short: Path) -> None:
    """A command in a message stands on a line of its own, however long it is, so that it can be copied."""
    home = short / ("a-home-with-a-long-name-" * 2) / "and more"
    done = strongroom("--home", home, "status", environ=narrow(), terminal=True)

    assert done.err.splitlines()[-1] == f"    strongroom --home '{home}' up"


def test_what_is_said_after_a_command_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two commands each has its line, and the words between them theirs."""
    monkeypatch.setenv("COLUMNS", str(NARROW))

    class Terminal:
        def isatty(self) -> bool:
            return True

    text = "nobody listens; see that it runs: strongroom --home '/a; b' up; or say where: strongroom --socket X status"
    assert show._lines(text, Terminal()) == [  # type: ignore[arg-type]
        "nobody listens; see that it runs:",
        "    strongroom --home '/a; b' up",
        "or say where:",
        "    strongroom --socket X status",
    ]


def test_keys_for_people_break_between_their_groups(short: Path) -> None:
    """A share is words, and each is whole on a line, as whoever copies it by hand needs it."""
    with up(short / "home", environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")) as running:
        made = strongroom(
            "--home", running.home, "key", "init", "--shares", "2/3", environ=narrow(), terminal=True, stdin=b""
        )
    assert made.code == 0, made
    shares = [line for line in made.out.splitlines() if not line.startswith("the service")]
    words = [word for line in shares for word in line.split() if not word.isdecimal()]

    assert max(map(len, shares)) <= NARROW
    assert (len(words), set(words) - set(WORDLIST)) == (3 * 33, set())


def verbs(context: click.Context) -> dict[str, click.Command]:
    """Return every command that does something, by the words that it is called by."""
    group = context.command
    if not isinstance(group, click.Group):
        return {context.command_path: group}
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found |= verbs(click.Context(command, info_name=name, parent=context))
    return found


def test_the_manual_page_has_every_command_and_option() -> None:
    """It is written from the commands: each has its part, with what it does and each option of its own."""
    page = man.page(root, datetime(2026, 1, 2, tzinfo=UTC))
    parts = dict(re.findall(r'^\.SS "([^"]+)"\n(.*?)(?=^\.S[SH])', page, re.MULTILINE | re.DOTALL))
    common = {option for each in root.params for option in each.opts}
    known = verbs(click.Context(root, info_name="strongroom"))

    assert page.startswith('.TH STRONGROOM 1 "2026-01-02" "Strongroom ')
    assert {f"strongroom {name}".replace("\\-", "-") for name in parts} == set(known)
    assert len(known) > 50
    for path, command in known.items():
        part = parts[path.removeprefix("strongroom ").replace("-", "\\-")].replace("\\-", "-")
        said = " ".join(part.split())
        assert " ".join((command.help or "").split("\n\n")[0].split()) in said, path
        options = {
            option
            for each in command.params
            if isinstance(each, click.Option) and not each.hidden
            for option in each.opts
        }
        assert [option for option in options - common if option not in part] == [], path


def test_the_manual_page_is_nothing_but_what_man_reads() -> None:
    """Only macros of man(7) begin a line with a dot, and no backslash of ours is taken for an escape."""
    page = man.page(root, datetime(2026, 1, 2, tzinfo=UTC))
    macros = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert macros <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".nf", ".fi"}
    assert set(re.findall(r"\\(?:f.|.)", page)) <= {"\\-", "\\fB", "\\fI", "\\fR", "\\e", "\\&"}
    assert textwrap.dedent(page) == page
