"""Which records a path of OpenBao becomes: rules without I/O.

A path's folders are the containers of its secrets, unless ``map=FOLDER=CONTAINER`` says where what lies below a folder
goes; of several folders the longest counts, and ``map=/=CONTAINER`` is for all that no other says::

    apps/db      {"user": …, "password": …}      secrets/apps/db/user  secrets/apps/db/password
    apps/token   {"value": …}                    secrets/apps/token
    with map=apps=platform/legacy                secrets/platform/legacy/db/user  …  secrets/platform/legacy/token

A text is kept as it is, every other value as its JSON. Two paths can meet in one name: ``a/b`` with a field ``c``, and
``a/b/c`` with the field ``value`` alone, both are ``secrets/a/b/c``. Neither gives way here; the migration moves the
one that comes first in the listing, and tells of the other as a duplicate until a mapping parts them.

What comes to lie in ``hosts`` or ``container_managers``, where the platform keeps credentials, becomes credentials, one
record for a path, named by its last segment; so ``map=ssh=hosts`` moves the SSH keys of ``ssh/10.0.0.7``::

    hosts                 ssh_priv_key or private_key, remote_user or username   HostCreds
    container_managers    token, username, password, certificate, …              ContainerManagerCreds

An SSH key may be PEM, or in base64. Fields that such a record does not have stay behind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from strongroom.migration.records import Record
from strongroom.migration.sources import making
from strongroom.migration.sources.files import Unfit
from strongroom.migration.sources.openbao.http import shown
from strongroom.migration.sources.openbao.kv import Fields
from strongroom.models import MODELS, SecretModel, names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError

ALONE: Final = "value"  # a field that, where it is the only one, gives its secret no segment of its own
MAP: Final = "map is FOLDER=CONTAINER, such as ssh=hosts, or /=CONTAINER for everything"

_CREDENTIALS: Final = {model.plural: model for model in MODELS.values() if issubclass(model, SecretModel)}
_ALIASES: Final[Mapping[str, Mapping[str, str]]] = {
    "hosts": {"private_key": "ssh_priv_key", "username": "remote_user"},
}
_KEY_FILES: Final = frozenset({"ssh_priv_key"})


@dataclass(frozen=True, slots=True)
class Moved:
    """What becomes of a path: its records, and which of its *fields* are in them; or a *fault*."""

    records: tuple[Record, ...] = ()
    fields: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    fault: str = field(default="")


class _Rule(NamedTuple):
    folder: str  # "" for the mount itself
    container: str  # "" for secrets/ itself


class Layout:
    """Where paths go."""

    def __init__(self, maps: Sequence[str]) -> None:
        """Take the mappings, as they were said.

        Raises:
            ConfigurationError: one is invalid, or two are of one folder.
        """
        rules = {"": _Rule("", "")}
        said: set[str] = set()
        for text in maps:
            folder, mark, container = text.rpartition("=")  # no container has a "=" in its name
            rule = _Rule(folder.strip("/"), container.strip("/"))
            if not mark or not folder or not _is_name(f"{names.SECRETS}{rule.container}/"):
                raise ConfigurationError(MAP)
            if rule.folder in said:
                raise ConfigurationError(f"two mappings are of the folder {shown(rule.folder) or '/'}")
            said.add(rule.folder)
            rules[rule.folder] = rule
        self._rules = sorted(rules.values(), key=lambda rule: -len(rule.folder))

    def records(self, path: str, fields: Fields) -> Moved:
        """Return what a path with these *fields* becomes. No text of it holds a value."""
        folder, _, segment = path.rpartition("/")
        container = self._container(folder)
        model = _CREDENTIALS.get(container.partition("/")[0])
        if model is None:
            return _secrets(container, segment, fields)
        if container != model.plural:
            return Moved(
                fault=f"credentials lie in {model.plural} itself, and not in folders of it: map this folder too,"
                f" -o map={shown(folder)}=CONTAINER"
            )
        return _credentials(model, segment, fields)

    def paths(self, name: str) -> Iterator[str]:
        """Yield the paths that the record *name* can come from."""
        body = name.removeprefix(names.SECRETS)
        for rule in self._rules:
            prefix = f"{rule.container}/" if rule.container else ""
            if body.startswith(prefix) and body != name:
                rest = body.removeprefix(prefix)
                outer, slash, _ = rest.rpartition("/")
                for inner in (rest, outer) if slash else (rest,):
                    yield f"{rule.folder}/{inner}" if rule.folder else inner

    def _container(self, folder: str) -> str:
        """Return the container that a *folder* becomes, without slashes round it."""
        rule = next(rule for rule in self._rules if f"{folder}/".startswith(f"{rule.folder}/") or not rule.folder)
        inner = folder.removeprefix(rule.folder).strip("/")
        return "/".join(part for part in (rule.container, inner) if part)


def _secrets(container: str, segment: str, fields: Fields) -> Moved:
    outer = names.SECRETS + (f"{container}/" if container else "")
    alone = list(fields) == [ALONE]
    if alone and not container:
        return Moved(fault="a secret lies in a container: say which, -o map=/=CONTAINER")
    notes = []
    records = []
    moved = set()
    for name, value in fields.items():
        if not (text := _text(value)):
            notes.append(f"its field {shown(name)} is empty, and stays behind")
            continue
        if not _is_text(value):
            notes.append(f"its field {shown(name)} is not text: its JSON moves")
        try:
            if "/" in name:
                raise Unfit("its name would make a container")
            records.append(making.secret(outer + segment if alone else f"{outer}{segment}/{name}", text))
        except Unfit as error:
            return Moved(fault=str(error) if alone else f"of its field {shown(name)}: {error}")
        moved.add(name)
    if not records:
        notes.append("it holds nothing that could move")
    return Moved(tuple(records), frozenset(moved), tuple(notes))


def _credentials(model: type[SecretModel], segment: str, fields: Fields) -> Moved:
    aliases = _ALIASES.get(model.plural, {})
    blank = model.new(**{model.primary_key: segment})
    known = {each.name for each in msgspec.structs.fields(model)}
    secret = {name for name in known if isinstance(getattr(blank, name), Secret)}
    values: dict[str, str] = {}
    moved = set()
    for said, value in fields.items():
        name = aliases.get(said, said)
        text = _text(value)
        if name not in known or not text or (name == model.primary_key and text != segment):
            continue
        if not _is_text(value):
            return Moved(fault=f"its field {shown(said)} is not text")
        if name in values:
            return Moved(fault=f"two of its fields are its {name}")
        values[name] = text
        moved.add(said)
    if not secret & values.keys():
        wanted = sorted(secret | {alias for alias, name in aliases.items() if name in secret})
        return Moved(fault=f"none of its fields opens anything: {' or '.join(wanted)} is expected")
    try:
        values |= {name: making.key_text(values[name]) for name in _KEY_FILES & values.keys()}
        record = making.of(model, values | {model.primary_key: segment})
    except Unfit as error:
        return Moved(fault=str(error))
    return Moved((record,), frozenset(moved), tuple(making.left_behind("fields", fields.keys() - moved)))


def _is_text(value: bytes) -> bool:
    return value.startswith(b'"')


def _text(value: bytes) -> str:
    """Return the text of a field's JSON; of null there is none."""
    if _is_text(value):
        return msgspec.json.decode(value, type=str)
    return "" if value == b"null" else value.decode()


def _is_name(name: str) -> bool:
    try:
        names.check(name)
    except InvalidName:
        return False
    return True
