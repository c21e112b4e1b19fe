"""Write the client's blocking face anew from the one for event loops, of which it is a translation word by word.

    .venv/bin/python -m strongroom.deploy.tools.faces

`make format` does it, too; a test holds the one to the other.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).resolve().parents[2] / "storage_service/client"
SOURCE: Final = CLIENT / "awaiting.py"
WRITTEN: Final = CLIENT / "blocking.py"

# What is said otherwise to threads. The first that matches at a place is taken.
_PHRASES: Final = {
    "`AsyncStorageClient`: the operations as coroutines.": "`StorageClient`: the operations as methods that block.\n\n"
    "Written from `awaiting` by deploy/tools/faces.py: change that, and run make format.\n",
    "for event loops": "for threads",
    "Tasks may share one; each event loop has connections of its own.": "Threads may share one.",
    "            for record in records:\n                yield record\n": "            yield from records\n",
    "            for name in names:\n                yield name\n": "            yield from names\n",
    "Coroutine[Any, Any, T]": "T",
    "Awaitable[None]": "None",
    "(await asyncio.to_thread(in_agent))": "in_agent()",
    "await asyncio.to_thread(answer, ": "answer(",
    "await ": "",
    "async ": "",
    "AsyncIterator": "Iterator",
    "AsyncStorageClient": "StorageClient",
    "Awaitable, ": "",
    "Callable, Coroutine": "Callable",
    "import Any, ": "import ",
    "asynccontextmanager": "contextmanager",
    "asyncio": "time",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "client.loops": "client.sockets",
    "LoopPools": "SocketPool",
}
_ANY: Final = re.compile("|".join(map(re.escape, _PHRASES)))


def blocking(awaiting: str) -> str:
    """Return the blocking face of the source *awaiting*."""
    text = _ANY.sub(lambda match: _PHRASES[match.group()], awaiting)
    for arguments in (["check", "--fix-only", "--select=I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *arguments, "--quiet", f"--stdin-filename={WRITTEN}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    WRITTEN.write_text(blocking(SOURCE.read_text()))
