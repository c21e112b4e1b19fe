"""The suite itself: how it is collected, and how its tests are shared by several processes."""

import ast
import os
import socket
from contextlib import suppress
from pathlib import Path

from tests import groups
from tests.collection import TOUCHED, watched
from tests.laws.test_source_law import ESTATES

ROOT = Path(__file__).resolve().parents[1]


def test_collection_touches_nothing() -> None:
    """The tests are collected without a program on PATH, and nothing is started, bound or connected to."""
    before = list(TOUCHED)
    with watched(), socket.socket() as asking, suppress(ConnectionError):
        path = os.environ.get("PATH")
        asking.connect(("127.0.0.1", 9))
    seen = TOUCHED[len(before) :]
    del TOUCHED[len(before) :]

    assert before == []
    assert path is None
    assert [each.partition(":")[0] for each in seen] == ["socket.connect"]


def test_what_is_begun_first_is_there() -> None:
    """The files that are begun first exist; all others have their turn after them."""
    assert [file for file in groups.FIRST if not (ROOT / file).is_file()] == []
    assert max(map(groups.turn_of, groups.FIRST)) < groups.turn_of("tests/test_suite.py::test_that")


def test_a_file_stays_together() -> None:
    """Tests of one file are one group, unless the file is given out in parts."""
    assert groups.group_of("tests/a.py::test_b[c::d]") == groups.group_of("tests/a.py::Test::test_e") == "tests/a.py"


def test_an_estate_stays_together() -> None:
    """All that the law of sources says of one estate is one group, and no other estate is in it."""
    law = "tests/laws/test_source_law.py::"
    for kind in ESTATES:
        asked = f"{law}test_law[{kind}-the_order_stays]", f"{law}test_another_estate[{kind}]", f"{law}test_line[{kind}]"
        assert {groups.group_of(each) for each in asked} == {law + kind}


def test_what_a_module_makes_is_made_once() -> None:
    """No file whose fixtures live as long as its module is given out test by test."""
    for file, part in groups.FIRST.items():
        scopes = [
            ast.literal_eval(keyword.value)
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "scope"
        ]
        assert "module" not in scopes or part("test_law[a-b]") != "test_law[a-b]", file
