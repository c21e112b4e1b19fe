"""What the documentation points to is there: files, headings, commands and their options, make's targets."""

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from strongroom.deploy import settings
from strongroom.deploy.cli import strongroom
from strongroom.storage_service.access.credentials.password import verify
from strongroom.storage_service.access.users_file import UsersFile
from strongroom.storage_service.routing import plan
from tests.pages.page import LANGUAGES, blocks

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])

_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of ours in the code of *text*, with its words; alternatives stand as ``a|b`` in one word."""
    lines = [line for block in _FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *_INLINE.findall(_FENCE.sub("", text))]:
        code = re.sub(r"(\s|^)#.*", "", line)
        for part in re.split(r" \| |&&", code):
            match = re.match(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:sudo )?(?:\.venv/bin/)?(strongroom|make) +(.*)$", part)
            if match is not None:
                yield match[1], re.sub(r"[\[\]…]", " ", match[2]).split()


def options_of(command: click.Command) -> set[str]:
    """Return the options that *command* takes."""
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


def check_strongroom(words: list[str]) -> None:
    """Follow *words* down the command as far as they are nouns and verbs, and look every option up on the way."""
    command: click.Command = strongroom
    options = options_of(strongroom)
    context = click.Context(strongroom)
    before = ""
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in options, f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            found = [command.get_command(context, choice) for choice in word.split("|")]
            assert None not in found or before.startswith("-"), f"{command.name} has no command {word}"
            if found[0] is not None:
                command = found[0]
                options = options.union(*(options_of(each) for each in found if each is not None))
        before = word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link of a page leads to a file that is there, and to a heading that is in it."""
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        if anchor:
            headings = _HEADING.findall(file.read_text())
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every command of ours in a page's code exists, and so do the options it is given."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, words in commands(page.read_text()):
        if program == "strongroom":
            check_strongroom(words)
        else:
            said = shlex.split(" ".join(words))
            asked = [word for word in said if "=" not in word and not word.startswith("-")]
            assert all(word in targets or word.startswith(".venv") for word in asked), f"make {' '.join(words)}"


@pytest.mark.parametrize(
    "block",
    [
        block
        for page in ("configuration", "operating")
        for block in _TOML.findall((ROOT / f"docs/{page}.md").read_text())
    ],
)
def test_settings_are_settings(tmp_path: Path, block: str) -> None:
    """Every piece of a settings file that a page shows is understood as it stands."""
    (tmp_path / "strongroom.toml").write_text(block)

    loaded = settings.load(environ={}, home=tmp_path, without_key=True)

    plan(loaded.service.storage_handlers, loaded.service.store)


def test_the_hash_of_a_password_is_made_as_the_page_says(tmp_path: Path) -> None:
    """The page's command makes a hash with which its users file lets the user in, and reveal credentials."""
    page = (ROOT / "docs/configuration.md").read_text()
    (line,) = re.findall(r"^\$ /opt/strongroom/bin/python (-c .*PasswordHasher.*)$", page, re.MULTILINE)
    (form,) = re.findall(r'`(\{"alice": .*\})`, which the service\s+reads', page)

    done = subprocess.run(
        [sys.executable, *shlex.split(line)],
        input="correct horse\n",
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,  # so that there is no terminal to ask at
    )

    file = tmp_path / "users.json"
    file.touch(0o600)
    file.write_bytes(msgspec.json.encode({"alice": msgspec.json.decode(form)["alice"] | {"hash": done.stdout.strip()}}))
    alice = UsersFile(file).current()["alice"]
    assert verify(alice.hash, b"correct horse")
    assert alice.reveal_credentials


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_what_they_say(page: Path) -> None:
    """Every block says what it is: what it says is read as that, and what is `text` nobody has to type."""
    for line, language, content in blocks(page.read_text()):
        where = f"{page.name}:{line}"
        assert language in LANGUAGES, f"{where}: a block of {language!r}"
        if language == "json":
            msgspec.json.decode(content)
        elif language == "yaml":
            yaml.safe_load(content)
        elif language == "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(content)
        elif language == "sh":
            subprocess.run(["sh", "-n"], input=content, text=True, check=True)
        elif language == "text":
            assert not re.search(r"^[A-Z]?[$#] ", content, re.MULTILINE), where
