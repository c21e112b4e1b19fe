"""The types that the client promises, as mypy sees them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_types_are_those_of_the_examples() -> None:
    """mypy, in strict mode, accepts every line of the examples that it should, and refuses every other."""
    command = [sys.executable, "-m", "mypy", "tests/client/typing_examples.py"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr
