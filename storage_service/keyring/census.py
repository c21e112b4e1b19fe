"""The census: for every encrypted record an empty row that says which version it is under.

    system/census/default.3/secrets/hosts/10.0.0.7

The row is written and removed in the atomic batch that writes and removes the record, so that "what is still under
this version?" is a listing of one prefix, exact at every moment. The rows are as untrusted as the store: somebody who
edits them can hide a record from a sweep, so a key is destroyed only after the records themselves were looked at, too.
"""

from typing import Final

from models.names import SYSTEM
from storage_service.keyring.ring import is_kid

CENSUS: Final = SYSTEM + "census/"


def row(version: str, name: str) -> str:
    """Return the name of the row that says: the record *name* is under *version*."""
    return f"{CENSUS}{version}/{name}"


def rows_of(version: str) -> str:
    """Return the prefix of all rows of *version*."""
    return f"{CENSUS}{version}/"


def read(row: str) -> tuple[str, str] | None:
    """Return the version and the record that *row* tells of; None if it is no row."""
    version, _, name = row.removeprefix(CENSUS).partition("/")
    return (version, name) if row.startswith(CENSUS) and name and is_kid(version) else None
