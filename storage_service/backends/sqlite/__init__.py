"""The store of one machine: an SQLite file.

file      making it, knowing it from other programs' files, connecting to it, naming its errors
writer    the one thread that writes, a group of commits at a time
backend   the verbs of a backend
"""

from strongroom.storage_service.backends.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]
