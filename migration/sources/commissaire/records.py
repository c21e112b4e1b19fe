"""Commissaire's keys and values as records of Strongroom. No I/O.

    hosts/<address>                             Host, and what opens it: HostCreds
    clusters/<name>                             Cluster
    cluster/<name>/deploy | restart | upgrade   ClusterDeploy, ClusterRestart, ClusterUpgrade
    container_managers/<name>                   ContainerManagerConfig, and what opens it: ContainerManagerCreds
    networks/<name>                             Network
    status, config/<file>, and any other        stay where they are

Keys are those below ``/commissaire/``; values are JSON as Commissaire's models write it. A host of version 0.0.5 or
older has ``ssh_priv_key`` and ``remote_user`` inside. Types that Commissaire itself would have mended in memory are
mended here, and told; so is whatever stays behind.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, get_type_hints

from strongroom.migration.records import Record
from strongroom.migration.sources.commissaire import spelling
from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    Model,
    Network,
    strict_json,
)
from strongroom.models.errors import ValidationError
from strongroom.models.rules import means_secret
from strongroom.storage_service.wire import MAX_SECRET

SHORT: Final = 16  # bytes; a shorter secret may stand anywhere by chance

_KEY: Final = "ssh_priv_key"
_USER: Final = "remote_user"
_OPTIONS: Final = "options"
_PEM: Final = "-----BEGIN "
_LINE_BREAKS: Final = re.compile(r"[ \t\r\n]+")
_TELLABLE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_TOLD: Final = 8  # names of fields in one note
_NO_PATTERNS: Final = frozenset({_USER, "username"})  # they go with the secrets, and are not secret

_OPTIONS_OF_SECRETS: Final[Mapping[str, str]] = {
    "token": "token",
    "username": "username",
    "password": "password",
    "certificate": "certificate",
    "certificate_key": "certificate_key",
}
_OPTIONS_OF_FILES: Final[Mapping[str, str]] = {  # that hold PEM itself here and there
    "certificate_path": "certificate",
    "certificate_key_path": "certificate_key",
}


class _Kind(NamedTuple):
    """A kind of records: what their keys begin and end with."""

    model: type[Model]
    before: str
    after: str = ""


_KINDS: Final = (
    _Kind(Host, "hosts/"),
    _Kind(Cluster, "clusters/"),
    _Kind(ClusterDeploy, "cluster/", "/deploy"),
    _Kind(ClusterRestart, "cluster/", "/restart"),
    _Kind(ClusterUpgrade, "cluster/", "/upgrade"),
    _Kind(ContainerManagerConfig, "container_managers/"),
    _Kind(Network, "networks/"),
)
_HINTS: Final = {
    kind.model: {name: get_type_hints(kind.model)[name] for name in kind.model.__struct_fields__} for kind in _KINDS
}
_TWINS: Final[Mapping[str, type[Model]]] = {
    HostCreds.prefix(): Host,
    ContainerManagerCreds.prefix(): ContainerManagerConfig,
}


@dataclass(slots=True)
class Reading:
    """What one key becomes; *moved* are the members that a secret record takes with it."""

    records: tuple[Record, ...] = ()
    fault: str = ""
    notes: list[str] = field(default_factory=list)
    moved: list[spelling.Path] = field(default_factory=list)


def read(path: str, value: bytes) -> Reading:
    """Return what the key at *path* below the prefix becomes, holding *value*."""
    found = _kind_of(path)
    if found is None:
        return Reading(notes=[_stays(path)])
    kind, key = found
    reading = Reading()
    try:
        values = strict_json.decode(value, most=len(value))
        if not isinstance(values, dict):
            raise _Unreadable("it is not a JSON object")
        models = _READERS.get(kind.model, _plain)(kind, key, values, reading)
        reading.records = tuple(Record.of(model) for model in models)
        if any(len(record.value) > MAX_SECRET for record in reading.records):
            raise _Unreadable(f"it is larger than {MAX_SECRET // 1024} KiB")
    except (_Unreadable, strict_json.MalformedJSON) as error:
        return Reading(fault=str(error))
    except ValidationError as error:
        return Reading(fault="; ".join(f"{fault.field} {fault.reason}" for fault in error.faults))
    return reading


def path_of(name: str) -> str | None:
    """Return below the prefix the key of what becomes the record *name*, None if none does."""
    container, _, key = name.rpartition("/")
    model = _TWINS.get(container + "/")
    prefix = model.prefix() if model else container + "/"
    kind = next((kind for kind in _KINDS if kind.model.prefix() == prefix), None)
    return kind and f"{kind.before}{key}{kind.after}"


def scrubbed(path: str, value: bytes) -> bytes | None:
    """Return *value* without the members that moved into a secret record; None: nobody knows which these are."""
    reading = read(path, value)
    if reading.fault:
        return None
    return spelling.without(value.decode(), reading.moved).encode() if reading.moved else value


def holds_secrets(path: str, value: bytes) -> bool:
    """Whether there is, or may be, a secret in *value*."""
    reading = read(path, value)
    return bool(reading.fault or reading.moved)


def search_patterns(path: str, value: bytes, *, nested: bool) -> Sequence[bytes]:
    """Return what must be found nowhere once *value* is scrubbed, as it is spelt.

    A short secret is looked for with the name of its member. With *nested*, values lie in files inside other JSON too.
    """
    found: dict[bytes, None] = {}
    for at in read(path, value).moved:
        if at[-1] in _NO_PATTERNS:
            continue
        member = spelling.member(value.decode(), at)
        spelt = member.value[1:-1]
        if len(spelt.encode()) < SHORT:
            spelt = member.text
        found |= dict.fromkeys((spelt.encode(), *((_escaped(spelt),) if nested else ())))
    return list(found)


class _Unreadable(Exception):
    """A value cannot become a record; the text is its fault."""


# Keys


def _kind_of(path: str) -> tuple[_Kind, str] | None:
    for kind in _KINDS:
        if path.startswith(kind.before) and path.endswith(kind.after):
            key = path[len(kind.before) : len(path) - len(kind.after)]
            if key and len(path) > len(kind.before) + len(kind.after):
                return kind, key
    return None


def _stays(path: str) -> str:
    if path == "status":
        return "the status of Commissaire's services: it stays behind"
    if path.startswith("config/"):
        return "a configuration of Commissaire's services: it stays behind, and may hold passwords"
    return "not a record of Commissaire's: it stays behind"


# Records


def _plain(kind: _Kind, key: str, values: dict[str, Any], reading: Reading) -> list[Model]:
    """Return the plain record of *values*, with what is known of them, and tell the rest."""
    model = kind.model
    hints = _HINTS[model]
    known = {}
    for name, value in values.items():
        if name not in hints:
            continue
        if value is None:
            reading.notes.append(f"{name} is null, and takes its default")
            continue
        known[name] = mended = _mend(hints[name], value)
        if type(mended) is not type(value):
            reading.notes.append(f"{name} is {_SHOWN[type(value)]}, and becomes {_SHOWN[type(mended)]}")
    if unknown := [name for name in values if name not in hints]:
        secret = [name for name in unknown if means_secret(name)]
        if secret:
            reading.notes.append(
                f"looks like a secret and stays behind, for no record has such a field: {_told(secret)}"
            )
        if others := [name for name in unknown if name not in secret]:
            reading.notes.append(f"stays behind, for no record has such a field: {_told(others)}")
    if not known.get(model.primary_key):
        reading.notes.append(f"{model.primary_key} is missing, and is taken from the key")
        known[model.primary_key] = key
    record = model.from_dict(known)
    if record.key != key:
        raise _Unreadable(f"{model.primary_key} is not the one of its key")
    return [record]


_SHOWN: Final[Mapping[type, str]] = {str: "text", int: "a whole number", float: "a number"}


def _mend(hint: Any, value: Any) -> Any:
    """Return *value* as Commissaire's models coerced it, where that loses nothing."""
    text = isinstance(hint, type) and issubclass(hint, str) and not issubclass(hint, StrEnum)
    if text and type(value) in (int, float):
        return str(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is int and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value


def _host(kind: _Kind, key: str, values: dict[str, Any], reading: Reading) -> list[Model]:
    inside = {name: values.pop(name) for name in (_KEY, _USER) if name in values}
    given = {name: value for name, value in inside.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, str):
            raise _Unreadable(f"{name} must be text")
    records = _plain(kind, key, values, reading)
    if not given.get(_KEY) and given.get(_USER, "root") in ("", "root"):
        if inside:
            reading.notes.append(f"{_KEY} is empty: it becomes a host alone")
        return records
    creds = {"address": key, _KEY: _one_line(given.get(_KEY, ""), reading), _USER: given.get(_USER, "root")}
    if not creds[_KEY]:
        reading.notes.append(f"{_KEY} is empty: its credentials hold {_USER} alone")
    reading.moved += [(name,) for name in inside]
    return [*records, HostCreds.from_dict(creds)]


def _one_line(text: str, reading: Reading) -> str:
    """Return a private key as its model has it: base64 of the key's file, on one line."""
    if _PEM in text:
        reading.notes.append(f"{_KEY} is PEM, and becomes base64 of it")
        try:
            return base64.b64encode(text.encode()).decode()
        except UnicodeEncodeError:
            raise _Unreadable(f"{_KEY} must be text that UTF-8 can carry") from None
    joined = _LINE_BREAKS.sub("", text)
    if joined != text:
        reading.notes.append(f"{_KEY} is broken into lines, and becomes one")
    return joined


def _container_manager(kind: _Kind, key: str, values: dict[str, Any], reading: Reading) -> list[Model]:
    options = values.get(_OPTIONS)
    creds: dict[str, str] = {}
    moved: list[str] = []
    for name, value in options.items() if isinstance(options, dict) else ():
        target = _OPTIONS_OF_SECRETS.get(name)
        if isinstance(value, str) and value.lstrip().startswith(_PEM):
            target = target or _OPTIONS_OF_FILES.get(name)
        if target and value and isinstance(value, str):
            if target in creds:
                raise _Unreadable(f"{_OPTIONS} have two values for {target}")
            creds[target] = value
            moved.append(name)
    if not creds:
        return _plain(kind, key, values, reading)
    kept = {name: value for name, value in (options or {}).items() if name not in moved}
    reading.notes.append(f"moves from its {_OPTIONS} to its credentials: {_told(moved)}")
    reading.moved += [(_OPTIONS, name) for name in moved]
    records = _plain(kind, key, {**values, _OPTIONS: kept}, reading)
    return [*records, ContainerManagerCreds.from_dict({"name": key, **creds})]


_READERS: Final = {Host: _host, ContainerManagerConfig: _container_manager}


def _told(found: Sequence[str]) -> str:
    """Return names of fields as a note may tell them: few, and none that could be something else."""
    shown = [name if _TELLABLE.fullmatch(name) else "(a name that is not shown)" for name in found[:_TOLD]]
    return ", ".join(shown) + (f" and {len(found) - _TOLD} more" if len(found) > _TOLD else "")


# Patterns


def _escaped(spelt: str) -> bytes:
    """Return a text as it stands inside a text of JSON that Go writes: etcd's v2 store is one such document."""
    text = json.dumps(spelt, ensure_ascii=False)[1:-1]
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode(errors="surrogatepass")
