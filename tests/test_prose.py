"""Messages and docstrings are plain English: the turns that readers stumbled over stand in none of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("models", "storage_service", "http_proxy", "migration", "deploy", "strongroom")
DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Turn(NamedTuple):
    """A turn of phrase that is not English, what to write in its place, and texts that have it."""

    pattern: re.Pattern[str]
    instead: str
    bad: tuple[str, ...]
    good: tuple[str, ...]
    in_docstrings: bool = True


TURNS: Final = {
    "is none": Turn(
        re.compile(r"(?<![Tt]here )\b(?:is|are) none\b"),
        "'is invalid', 'is not one', 'is not a …': a reader takes 'is none' for 'is absent'",
        ("the name is none", "it opens, but is none", "this is none of them"),
        ("the name is invalid", "there is none", "there are none of them"),
    ),
    "of who knows": Turn(
        re.compile(r"\bof who knows\b"),
        "'unknown'",
        ("None: of who knows what",),
        ("None: the total is unknown",),
    ),
    "as there are are": Turn(
        re.compile(r"\b(are|in|is|of|the|to) \1\b"),
        "another order of words: a word that stands twice in a row is read as a mistake",
        ("1 to as many as there are are needed",),
        ("between 1 and the number of shares",),
    ),
    "is no": Turn(
        re.compile(r"(?<![Tt]here )\b(?:is|are) no (?!longer\b)"),
        "'is not a …'",
        ("this is no signed report", "its keys are no keys"),
        ("this is not a signed report", "there is no such key", "it is no longer there"),
        in_docstrings=False,
    ),
    "without end": Turn(
        re.compile(r"\bwithout end\b"),
        "'others keep changing …': a reader takes 'without end' for 'for ever'",
        ("others change the keyring without end",),
        ("others keep changing the keyring",),
        in_docstrings=False,
    ),
    "stands twice, is said twice": Turn(
        re.compile(r"\b(?:stands|is said) (?:once|twice)\b"),
        "'appears twice', 'is given once'",
        ("a name stands twice", "the option is said once"),
        ("a name appears twice", "the option can be given only once"),
        in_docstrings=False,
    ),
    "not any more, behind or": Turn(
        re.compile(r"\bor not any more\b"),
        "'or no longer'",
        ("it is not prepared, or not any more",),
        ("it is not prepared, or no longer",),
    ),
}


class Text(NamedTuple):
    """A text of the source, and whether it is a docstring; what a message has for its values is left out."""

    place: str
    text: str
    is_docstring: bool


def texts_of(source: str, name: str) -> Iterator[Text]:
    """Yield the docstrings of *source*, and all other texts of more than one word."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Text(f"{name}:{node.lineno}", " ".join(node.value.split()), id(node) in docstrings)


def found(turn: Turn, texts: Iterator[Text] | list[Text]) -> list[str]:
    """Return where *turn* stands among *texts*."""
    return [
        f"{each.place}: {each.text}"
        for each in texts
        if (turn.in_docstrings or not each.is_docstring) and turn.pattern.search(each.text)
    ]


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    """All texts of the rooms."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not path.name.endswith("_pb2.py"))
    return [each for path in paths for each in texts_of(path.read_text(), str(path.relative_to(ROOT)))]


@pytest.mark.parametrize("name", TURNS)
def test_nobody_writes_it(name: str, texts: list[Text]) -> None:
    """No message has one of these turns, and no docstring one of those that are for docstrings, too."""
    assert len(texts) > 1000
    where = found(TURNS[name], texts)
    assert not where, "\n".join([f"write {TURNS[name].instead}", *where])


@pytest.mark.parametrize("name", TURNS)
def test_it_would_be_found(name: str) -> None:
    """Each is found in a message and, where it counts, in a docstring, broken over lines too; plain words are not."""
    turn = TURNS[name]
    for bad in turn.bad:
        message = f"def f(x):\n    raise ValueError(f{f'{{x}}: {bad}'!r})\n"
        docstring = f"def f(x):\n    '''One.\n\n    {bad.replace(' ', chr(10) + '    ')}\n    '''\n"
        assert len(found(turn, texts_of(message, "m.py"))) == 1, bad
        assert len(found(turn, texts_of(docstring, "d.py"))) == turn.in_docstrings, bad
    for good in turn.good:
        assert not found(turn, texts_of(f"raise ValueError({good!r})\n", "m.py")), good
