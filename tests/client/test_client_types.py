"""The types that the client promises, as mypy sees them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = 'from pathlib import Path\n\nhome = socket = Path()\nurl = api_id = api_key = ""\n'  # what a reader has


@pytest.mark.parametrize("page", ["README.md", "docs/client-library.md"])
def test_what_the_pages_show_is_typed(tmp_path: Path, page: str) -> None:
    """The Python of a page, as one program, passes mypy's strict mode as it stands."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(SERVICE + "".join(blocks))
    command = [sys.executable, "-m", "mypy", "--strict", str(program)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert blocks
    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr


def test_the_types_are_those_of_the_examples() -> None:
    """mypy, in strict mode, accepts every line of the examples that it should, and refuses every other."""
    command = [sys.executable, "-m", "mypy", "tests/client/typing_examples.py"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr
