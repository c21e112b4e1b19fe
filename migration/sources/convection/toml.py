"""TOML 1.0.0, as far as a Convection store is written in it: one line for each member of a table, tables within inline.

Python reads TOML and does not write it. What is written here reads back the same, with Python's reader and with the
one that Convection uses.
"""

import datetime
import json
from collections.abc import Mapping


def dumps(document: Mapping[str, object]) -> str:
    """Return *document*, as ``tomllib.loads`` gave it, in TOML.

    Raises:
        TypeError: it holds something that TOML does not have.
    """
    tables = {name: value for name, value in document.items() if isinstance(value, Mapping)}
    lines = [_pair(name, value) for name, value in document.items() if name not in tables]
    for name, table in tables.items():
        lines.append(f"[{_quoted(name)}]")
        lines += [_pair(member, value) for member, value in table.items()]
    return "".join(f"{line}\n" for line in lines)


def _pair(name: str, value: object) -> str:
    return f"{_quoted(name)} = {_written(value)}"


def _quoted(text: str) -> str:
    # A basic string is a JSON string in which DEL is escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(value: object) -> str:
    match value:
        case str():
            return _quoted(value)
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)  # infinities and NaN are spelled alike, too
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case Mapping():
            return f"{{{', '.join(_pair(name, member) for name, member in value.items())}}}"
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}")
