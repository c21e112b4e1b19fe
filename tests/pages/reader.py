"""Somebody who follows a page in a fresh home, and types what it says in as many terminals as that takes."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from tests.at_terminal import AtTerminal
from tests.deploy.running import clean_environment
from tests.etcd_server import free_port
from tests.pages.page import ROOT, Command, code_of, commands, is_shown, programs

_PROMPT: Final = "\x1e"  # stands on both sides of the exit code that a shell shows before it asks for more
_WITHIN: Final = 120.0  # seconds for a command
_SERVES: Final = re.compile(r"strongroom up\b(?!.*&\s*(#|$))", re.MULTILINE)  # keeps its terminal until Ctrl-C

Answers = Mapping[str, Callable[[str], str]]
"""What is typed when a question stands on the screen, by the question; each is given what the command has shown."""


class Shell(AtTerminal):
    """A shell at a terminal of its own."""

    def __init__(self, home: Path, environ: Mapping[str, str], columns: int) -> None:
        command = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        shown = {"PS1": f"{_PROMPT}$?{_PROMPT}", "PS2": "", "TERM": "dumb"}
        super().__init__(command, {**environ, **shown}, home, columns=columns)
        self._code()
        self.run("stty -echo", {})

    def run(self, text: str, answers: Answers) -> tuple[int, str]:
        """Type *text*, answer what is asked, and return the exit code and what came on the screen."""
        begun = len(self.screen)
        self.types(text)
        while (asked := self.sees(*answers, _PROMPT, within=_WITHIN)) != _PROMPT:
            self.types(answers[asked](self.screen[begun:]))
        self.seen -= 1
        shown = self.screen[begun : self.seen]
        return self._code(), shown

    def _code(self) -> int:
        self.sees(_PROMPT, within=_WITHIN)
        begun = self.seen
        self.sees(_PROMPT)
        return int(self.screen[begun : self.seen - 1])


class Reader:
    """Somebody who follows a page, from its first command to its last."""

    def __init__(
        self,
        page: str,
        home: Path,
        words: Mapping[str, str],
        elsewhere: Mapping[str, str],
        instead: Mapping[str, "Callable[[Reader], object]"],
        *,
        columns: int = 100,
    ) -> None:
        """Open *page*.

        Args:
            page: its path within the tree.
            home: of the user who reads it; it is empty.
            words: what stands on the page, and what stands for it here: addresses, and names that readers choose.
            elsewhere: how commands begin that cannot run here, and where they are tried, or why they are not.
            instead: what is done in the place of commands that begin so.
            columns: how wide the terminals are.
        """
        text = (ROOT / page).read_text()
        self.page = page
        self.home = home
        self.answers: dict[str, Callable[[str], str]] = {"[y/N]: ": lambda _: "y"}
        self.screen = ""  # what the last command showed
        self._port = free_port()
        self.words = {**words, "127.0.0.1:8000": f"127.0.0.1:{self._port}"}
        self._elsewhere = elsewhere
        self._instead = instead
        self._columns = columns
        self._unused = {*elsewhere, *instead}
        self._left = sorted([*commands(text), *programs(text)], key=lambda each: each.line)
        self._shells: dict[str, Shell] = {}
        self._exported: list[str] = []
        self._serving: Shell | None = None
        self._install()

    def follow(self, until: str = "") -> None:
        """Do as the page says, up to the command that begins with *until*, or to its end."""
        while self._left and not (until and self._left[0].text.startswith(until)):
            self._do(self._left.pop(0))
        if until:
            assert self._left, f"{self.page} has no {until!r} any more"
        else:
            assert not self._unused, f"{self.page} has none of these any more: {self._unused}"

    def does(self, text: str, machine: str = "") -> str:
        """Do what the page leaves to its reader, and return what is shown."""
        code, shown = self._run(text, machine)
        assert code == 0, f"{self.page}: {text} ended with {code}:\n{shown}"
        return shown

    def serves(self, text: str) -> None:
        """Start a service in a terminal of its own, and wait until it is ready."""
        self.ends_service()
        shell = Shell(self.home, self._environ(), self._columns)
        for line in self._exported:
            shell.run(line, {})
        shell.types(text)
        self._serving = shell
        assert shell.sees("Ready at", _PROMPT, within=_WITHIN) != _PROMPT, f"{self.page}: {text}\n{shell.screen}"

    def ends_service(self) -> None:
        """Press Ctrl-C where the service runs, if one does."""
        if self._serving is not None:
            self._serving.interrupts()
            self._serving.sees(f"{_PROMPT}0{_PROMPT}")
            self._serving.types("exit")
            self._serving.ends()
            self._serving = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shell in (self._serving, *self._shells.values()):
            if shell is not None:
                shell.__exit__()

    def _do(self, command: Command) -> None:
        for begins in [*self._elsewhere, *self._instead]:
            if command.text.startswith(begins):
                self._unused.discard(begins)
                if begins in self._instead:
                    self._instead[begins](self)
                return
        text = self._here(command.text)
        if _SERVES.search(text):
            self.serves(text)
            return
        code, self.screen = self._run(text, command.machine)
        where = f"{self.page}:{command.line}: {text}"
        expected = tuple(self._here(line) for line in command.shown if line)
        said = code_of(expected)
        assert code == said, f"{where} ended with {code}:\n{self.screen}"
        expected = expected[:-1] if said else expected
        assert is_shown(expected, self.screen), f"{where} does not show what the page says:\n{self.screen}"

    def _run(self, text: str, machine: str) -> tuple[int, str]:
        if text.startswith("export ") and not machine:
            self._exported.append(text)
        return self._shell(machine).run(text, self.answers)

    def _here(self, line: str) -> str:
        for word, here in self.words.items():
            line = line.replace(word, here)
        return line

    def _shell(self, machine: str) -> Shell:
        if machine not in self._shells:
            self._shells[machine] = Shell(self.home, self._environ(), self._columns)
        return self._shells[machine]

    def _environ(self) -> dict[str, str]:
        path = f"{ROOT}/.tools/bin:{os.environ['PATH']}"
        listen = {"STRONGROOM_LISTEN": f"127.0.0.1:{self._port}"}
        return clean_environment(HOME=str(self.home), PATH=path, **listen)

    def _install(self) -> None:
        """Make what `make setup` makes in the folder: an environment that has the command."""
        for name, module in (("strongroom", "-m strongroom.deploy.cli"), ("python", "")):
            program = self.home / ".venv" / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
            program.chmod(0o700)
