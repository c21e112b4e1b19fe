"""What is advised: data everywhere below the command line, and there a command that can be typed as it stands."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import msgspec
import pytest

from strongroom.deploy import steps
from strongroom.deploy.cli import strongroom as root
from strongroom.deploy.steps import Lead
from strongroom.models.steps import Step, Verb

ROOT = Path(__file__).resolve().parents[2]
BELOW = ("models", "storage_service", "migration", "http_proxy")
ROOMS = (*BELOW, "deploy")
VERBS = get_args(Verb)
NOUNS = root.list_commands(click.Context(root))
NAMES_OF_FORMATS = {"strongroom backup", "strongroom login"}
HOME = Lead(home=Path("/srv/our home"))


def trees(*rooms: str, where: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the modules of *rooms* in which the pattern *where* is found at all: to parse takes long."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            if re.search(where, text := path.read_text()):
                yield path.relative_to(ROOT), ast.parse(text)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every text of *tree* with its line, one with values in it as one; docstrings are for who reads the code."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def spelled(text: str) -> bool:
    words = text.replace("`", " ").replace("'", " ").split()
    return any(
        first.endswith("strongroom") and second.strip(",.;:)") in NOUNS for first, second in itertools.pairwise(words)
    )


def test_no_line_below_deploy_spells_a_command() -> None:
    """What finds out that something is to be done says it as a step; docstrings may name commands."""
    found = [
        f"{path}:{line}: {text}"
        for path, tree in trees(*BELOW, where=r"strongroom[^.\w-]")
        for line, text in texts(tree)
        if spelled(text) and text not in NAMES_OF_FORMATS
    ]

    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'raise X("run: strongroom key unlock")',
        'x = f"{a}; go on with: strongroom key reencrypt {b}"',
        'x = ("use `strongroom machine list`, "\n"or not")',
        "x = \"say: strongroom\"' up'",
    ],
)
def test_a_command_is_seen_where_it_is_spelled(code: str) -> None:
    """Also over the end of a line, in quotes, and with values in it."""
    assert any(spelled(text) for _, text in texts(ast.parse(code)))


class Advised(NamedTuple):
    where: str
    verb: str
    options: frozenset[str]


def advised() -> Iterator[Advised]:
    """Yield every step with a verb that is written in the source, and the names of its options."""
    for path, tree in trees(*ROOMS, where=r"\bStep\("):
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for scope in (*functions, tree):
            assigned = {
                target.id: node.value
                for node in ast.walk(scope)
                if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(scope):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Step", "steps.Step") and node.args[1:]:
                    verb = node.args[1]
                    if isinstance(verb, ast.Constant):
                        keys = frozenset(key for given in node.args[2:] for key in keys_of(given, assigned))
                        yield Advised(f"{path}:{node.lineno}", str(verb.value), keys)


def keys_of(given: ast.expr, assigned: dict[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(given):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        elif isinstance(node, ast.Name) and node.id in assigned and assigned[node.id] is not given:
            yield from keys_of(assigned[node.id], {name: each for name, each in assigned.items() if name != node.id})


def command_of(verb: str) -> click.Command:
    found: click.Command = root
    for word in verb.split():
        assert isinstance(found, click.Group), verb
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, verb
        found = inner
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_a_command(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be advised can be typed: of what it needs people are told what they fill in themselves."""
    of_a_run = verb.startswith("migrate ") and verb not in ("migrate check", "migrate sources")
    options: dict[str, str | bool | list[str]] = (
        {"run": "a-run"} if verb == "migrate forget" else OF_A_RUN if of_a_run else {}
    )
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)

    assert not isinstance(command_of(verb), click.Group)
    assert parse(shlex.split(steps.command(Step("", verb, options), Lead()))) is not None


OF_A_RUN: dict[str, Any] = {"source": "jsonl", "place": "a file", "option": ["key=/k"]}


def parse(words: list[str]) -> dict[str, Any]:
    """Return what click takes *words* for; raise where it does not."""
    context = root.make_context("strongroom", words[1:])
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context.params


def flags_of(verb: str) -> set[str]:
    return {flag for each in command_of(verb).params for flag in (*each.opts, *each.secondary_opts)}


def test_each_step_has_options_of_its_command() -> None:
    """No step in the source has a verb that is none, or an option that its command does not take."""
    found = set(advised())
    wrong = [
        step
        for step in found
        for name in step.options - {*steps.ARGUMENTS, "home", "socket"}
        if steps.FLAGS.get(name, f"--{name.replace('_', '-')}") not in flags_of(step.verb)
    ]

    assert (wrong, {step.verb for step in found} - set(VERBS)) == ([], set())
    # And the source was looked through: each room that advises, and what a variable holds.
    assert len(found) > 40
    assert {Path(each.where).parts[0] for each in found} == {"deploy", "http_proxy", "migration", "storage_service"}
    assert any(each.verb == "migrate scrub" and each.options == {"search_only"} for each in found)


@pytest.mark.parametrize(
    ("step", "lead", "typed"),
    [
        (Step("see to it"), HOME, ""),
        (Step("unlock it", "key unlock"), Lead(), "strongroom key unlock"),
        (Step("unlock it", "key unlock"), HOME, "strongroom --home '/srv/our home' key unlock"),
        (Step("unlock it", "key unlock"), Lead(socket=Path("/s")), "strongroom --socket /s key unlock"),
        (
            Step("unlock it", "key unlock"),
            Lead(home=Path("/h"), socket=Path("/s"), ca=Path("a ca")),
            "strongroom --home /h --socket /s --ca 'a ca' key unlock",
        ),
        (Step("start it", "up"), Lead(home=Path("/h"), socket=Path("/s"), ca=Path("c")), "strongroom --home /h up"),
        (Step("copy it", "backup take"), Lead(), "strongroom backup FILE"),
        (Step("copy it", "backup take", {"file": "f", "offline": True}), Lead(), "strongroom backup f --offline"),
        (Step("copy it", "backup take", {"file": "verify"}), Lead(), "strongroom backup take verify"),
        (Step("there", "key unlock", {"socket": "/there"}), HOME, "strongroom --socket /there key unlock"),
        (Step("there", "machine authorize"), HOME, "strongroom machine authorize PUBFILE --name NAME"),
        (Step("fill it", "restore", {"store": "sqlite:/a b"}), Lead(), "strongroom restore FILE --store 'sqlite:/a b'"),
        (Step("make it", "secret mkdir", {"container": "db"}), Lead(), "strongroom secret mkdir db"),
        (
            Step("finish it", "key reencrypt", {"resume": True, "leave_unreadable": False, "keyset": "default"}),
            Lead(),
            "strongroom key reencrypt default --resume",
        ),
        (
            Step("move it", "migrate apply", {"skip_bad": True, **OF_A_RUN}),
            Lead(),
            "strongroom migrate apply jsonl 'a file' --skip-bad -o key=/k",
        ),
        (
            Step("make one", "machine init"),
            Lead(config=Path("our.toml")),
            "strongroom machine init --config our.toml",
        ),
        (Step("unlock it", "key unlock"), Lead(config=Path("our.toml")), "strongroom key unlock"),
    ],
)
def test_a_step_is_a_command(step: Step, lead: Lead, typed: str) -> None:
    """It leads to the service that was meant, or to the one that the step names, and a shell takes it as it stands."""
    assert steps.command(step, lead) == typed


@pytest.mark.parametrize("verb", sorted(steps.WITH_CONFIG))
def test_what_takes_settings_takes_the_file(verb: Verb) -> None:
    """A file of settings that was said goes with the verbs that read settings."""
    assert any("--config" in each.opts for each in command_of(verb).params)


def test_a_line_steers_no_terminal() -> None:
    """What stands in a step moves no cursor, wherever it comes from."""
    told = steps.line("no\nline", [Step("a\x1b[2Jb", "key reencrypt", {"keyset": "\x9b2J; rm"})], Lead())

    assert told.isprintable()
    assert told.startswith("no line; a\\u001b[2Jb: strongroom key reencrypt $'")


def test_a_step_is_data() -> None:
    """In a report or an answer it is a reason, a verb and options, whichever of them there are."""
    step = Step("move it", "migrate apply", {"skip_bad": True})

    assert msgspec.to_builtins([step, Step("look")]) == [
        {"reason": "move it", "verb": "migrate apply", "options": {"skip_bad": True}},
        {"reason": "look", "verb": None, "options": {}},
    ]
    assert steps.as_data([step]) == msgspec.to_builtins([step])
    assert msgspec.json.decode(msgspec.json.encode(step), type=Step) == step


def test_what_a_step_says_itself_comes_first() -> None:
    """What is added to a step leaves its own options."""
    step = Step("go", "migrate apply", {"on_conflict": "keep"}).given({"on_conflict": "newer", "run": "r"})

    assert step.options == {"on_conflict": "keep", "run": "r"}


def test_arguments_reach_the_shell_as_they_are() -> None:
    """What begins with a dash stands behind --, and what would steer a terminal is written with escapes."""
    step = Step("", "secret mv", {"source": "-x", "place": "nope/y", "recursive": True})
    assert steps.command(step, Lead()) == "strongroom secret mv --recursive -- -x nope/y"
    step = Step("", "backup verify", {"file": "a\nb'c"})
    assert steps.line("", [step], Lead()).endswith(r"strongroom backup verify $'a\012b\'c'")
