"""Where the system refuses something, what it said stands in our own error: a full disk is told as one."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("deploy", "http_proxy", "migration", "storage_service")


def named(node: ast.AST) -> set[str]:
    """Return the variables that *node* uses."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def raised(body: list[ast.stmt], reasons: set[str]) -> Iterator[tuple[int, bool]]:
    """Yield the line of each error that *body* raises, and whether it is made of one of *reasons*, or chosen by one."""
    for each in body:
        if isinstance(each, ast.Assign) and reasons & named(each.value):
            reasons = reasons.union(*map(named, each.targets))
        if isinstance(each, ast.Raise) and each.exc is not None:
            yield each.lineno, bool(reasons & named(each.exc))
        for branch in ("body", "orelse", "finalbody"):
            chosen = isinstance(each, ast.If) and branch == "body" and reasons & named(each.test)
            for line, told in raised(getattr(each, branch, []), reasons):
                yield line, told or bool(chosen)


def test_an_error_of_the_system_is_told_with_its_reason() -> None:
    """Every error that is raised in the place of an `OSError` has in its text what the system said."""
    found, silent = 0, []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for handler in ast.walk(ast.parse(path.read_text())):
            # Those of a narrower kind, as FileNotFoundError, say by it what is wrong.
            if isinstance(handler, ast.ExceptHandler) and handler.type is not None and "OSError" in named(handler.type):
                for line, told in raised(handler.body, {handler.name or ""}):
                    found += 1
                    silent += [] if told else [f"{path.relative_to(ROOT)}:{line}"]
    assert found > 40
    assert silent == []
