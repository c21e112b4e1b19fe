"""What an audit log says, for tests."""

import json
from pathlib import Path
from typing import Any


def audit_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an audit log, as far as they are whole.

    Between two there may be an empty one: a group of lines begins with a line break where another process may have been
    cut off, and it looks so while that process is still writing.
    """
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line]
