"""Which tests stay together where several processes share them, and which are begun first.

A file stays together: what its fixtures make is made once. A file that would keep one process busy after the others
are done is begun first, and given out in parts where the parts share nothing.
"""

from collections.abc import Callable, Mapping
from typing import Final


def _each(test: str) -> str:
    return test


def _whole(test: str) -> str:
    return ""


def _estate(test: str) -> str:
    """Return the kind of estate that a test of the law of sources asks: ``test_law[kind-law]`` or ``test_x[kind]``."""
    name, _, parameters = test.rstrip("]").partition("[")
    return parameters.rpartition("-")[0] if name == "test_law" else parameters


FIRST: Final[Mapping[str, Callable[[str], str]]] = {
    "tests/laws/test_source_law.py": _estate,
    "tests/product/test_faults.py": _each,
    "tests/keyring/test_retire.py": _each,
    "tests/deploy_units/test_make_venv.py": _each,
}
"""The files that are begun first, the longest first, and of what part each of their tests is."""


def group_of(nodeid: str) -> str:
    """Return the name of what stays together with the test of that id."""
    file, _, test = nodeid.partition("::")
    part = FIRST.get(file, _whole)(test)
    return f"{file}::{part}" if part else file


def turn_of(nodeid: str) -> int:
    """Return when the test of that id has its turn: the lowest begins."""
    file = nodeid.partition("::")[0]
    return list(FIRST).index(file) if file in FIRST else len(FIRST)
