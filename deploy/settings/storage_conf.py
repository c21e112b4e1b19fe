"""CPD-101's ``storage.conf``: the storage service's own settings, a JSON object as Commissaire reads it.

Hyphens in member names are underscores; ``custodia_*`` members speak of the secrets; ``storage_handlers`` is a list
or, for one handler, an object. A handler without ``type`` has that of its ``name`` (CPD-101's own example does so).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from strongroom.deploy.settings.layer import Layer, Placeholders, etcd_url, read_text, unknown
from strongroom.storage_service.errors import ConfigurationError

_KNOWN: Final = (
    "bus_exchange",
    "bus_uri",
    "custodia_api_id",
    "custodia_api_key",
    "custodia_socket_path",
    "debug",
    "logging",
    "storage_handlers",
)
_IN_VAIN: Final = {
    "bus_exchange": "there is no message bus here, callers use the unix socket",
    "bus_uri": "there is no message bus here, callers use the unix socket",
    "logging": "logs are set by log_format and debug",
}
_TYPE_PREFIX: Final = "commissaire.storage."  # what Commissaire puts before a type without a dot
_ETCD_PREFIX: Final = "commissaire"  # where Commissaire keeps its records in etcd
_DEFAULT_ETCD: Final = "http://127.0.0.1:2379"
_PLACEHOLDER = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


def read(path: Path, placeholders: Placeholders) -> Layer:
    """Return what the file at *path* says.

    Raises:
        ConfigurationError: it cannot be read, is no JSON object, or says something unknown or contradictory.
    """
    where = path.name
    try:
        data = json.loads(read_text(path), object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{where}: not JSON at line {error.lineno}, column {error.colno}") from error
    except _Twice as error:
        raise ConfigurationError(f"{where}: '{error}' appears twice") from error
    except (ValueError, RecursionError):  # a number of thousands of digits, or nesting without end
        raise ConfigurationError(f"{where}: this is more than can be read") from None
    if not isinstance(data, dict):
        raise ConfigurationError(f"{where}: a JSON object is expected")

    values: dict[str, object] = {}
    notes: list[str] = []
    for name, value in data.items():
        if name not in _KNOWN:
            raise unknown(where, name, _KNOWN)
        if name in _IN_VAIN:
            notes.append(f"{where}: '{name}' has no effect: {_IN_VAIN[name]}")
        elif name == "storage_handlers":
            values[name] = _handlers(where, value)
        elif name == "debug":
            if not isinstance(value, bool):
                raise ConfigurationError(f"{where}: 'debug' is true or false")
            values[name] = value
        else:
            text = _filled(where, name, value, placeholders)
            if text is not None:
                values["socket" if name == "custodia_socket_path" else name.removeprefix("custodia_")] = text
    return Layer(where, values, tuple(notes))


class _Twice(ValueError):
    """A member named twice."""


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        plain = name.replace("-", "_")
        if plain in members:
            raise _Twice(plain)
        members[plain] = value
    return members


def _filled(where: str, name: str, value: object, placeholders: Placeholders) -> str | None:
    """Return a text member with its placeholder filled; None for the API key's when nothing but client.json can."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: '{name}' is a text, and not empty")
    placeholder = _PLACEHOLDER.fullmatch(value)
    if placeholder is None:
        return value
    if name == "custodia_api_key":
        return placeholders.lookup(placeholder[1])
    return placeholders.require(placeholder[1], where)


def _handlers(where: str, value: object) -> list[dict[str, object]]:
    """Return the handlers as ``storage_handlers`` of strongroom.toml writes them."""
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise ConfigurationError(f"{where}: 'storage_handlers' is an object or a list of objects")
    return [_handler(f"{where}: storage_handlers[{i}]", entry) for i, entry in enumerate(entries)]


def _handler(where: str, entry: object) -> dict[str, object]:
    """Return one handler; ``strongroom.storage_service.routing`` says whether its type, name and models make sense."""
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where} is an object")
    handler = {name: value for name, value in entry.items() if name in {"type", "name", "models"}}
    options = {name: value for name, value in entry.items() if name not in handler}
    if "type" in handler:
        handler["type"] = str(handler["type"]).removeprefix(_TYPE_PREFIX)
    if handler.get("type", handler.get("name")) == "etcd":
        options = {"url": _etcd_url(where, options)}
    return handler | options


def _etcd_url(where: str, options: Mapping[str, object]) -> str:
    """Return the URL of Commissaire's etcd options, its records staying where Commissaire keeps them.

    Raises:
        ConfigurationError: an option is unknown or no text, one of certificate and key is missing, or TLS is asked
            for on a server that is not https.
    """
    known = ("server_url", "certificate_path", "certificate_key_path", "certificate_ca_path")
    for name, value in options.items():
        if name not in known:
            raise unknown(where, name, known)
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: '{name}' is a text")
    server, certificate, key, ca = (str(options.get(name, "")) for name in known)
    scheme, _, address = (server or _DEFAULT_ETCD).partition("://")
    if scheme not in {"http", "https"} or not address or "/" in address.rstrip("/"):
        raise ConfigurationError(f"{where}: 'server_url' is http://HOST:PORT or https://HOST:PORT")
    if bool(certificate) != bool(key):
        raise ConfigurationError(f"{where}: 'certificate_path' and 'certificate_key_path' go together")
    if (certificate or ca) and scheme != "https":
        raise ConfigurationError(f"{where}: certificates need an https 'server_url'")
    if scheme == "https" and not ca:
        raise ConfigurationError(f"{where}: an https 'server_url' needs 'certificate_ca_path', the CA to trust")
    return etcd_url(address.rstrip("/"), _ETCD_PREFIX, cacert=ca, cert=certificate, key=key)
