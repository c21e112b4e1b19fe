"""What an installation may have left out: libraries that come with an extra, as in ``pip install '.[cli]'``.

Only Python's own library is imported here, so that it can be asked wherever something is missing.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

# extra -> what is imported of it, and comes with no smaller one; the tests hold it to pyproject.toml
LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    "cli": frozenset({"click", "cryptography", "rich", "shamir_mnemonic"}),
    "server": frozenset(
        {
            "ahocorasick_rs",
            "argon2",
            "bcrypt",
            "falcon",
            "google",
            "grpc",
            "gunicorn",
            "httpx",
            "jwcrypto",
            "prometheus_client",
            "sniffio",
            "uvloop",
            "yaml",
        }
    ),
}


def missing(error: BaseException) -> str | None:
    """Return what brings the library that *error* is about, as one line; None if it is about something else."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    name = error.name.partition(".")[0]
    return next((_told(name, extra) for extra, names in LIBRARIES.items() if name in names), None)


def lacking(extra: str) -> str | None:
    """Return what brings a library of *extra* that is not installed, as one line; None if all are there."""
    return next((_told(name, extra) for name in sorted(LIBRARIES[extra]) if find_spec(name) is None), None)


@contextmanager
def needed(more: str = "") -> Iterator[None]:
    """Let a program end with 2 and a line where the block lacks a library of an extra; *more* ends the line.

    Raises:
        SystemExit: it does.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (said := missing(error)) is None:
            raise
        sys.stderr.write(f"strongroom: {said}{more}\n")
        raise SystemExit(2) from None  # `exits.FAILED`, which may be what cannot be imported


def _told(name: str, extra: str) -> str:
    return f"this needs {name}, which is not installed; in Strongroom's own tree: pip install '.[{extra}]'"
