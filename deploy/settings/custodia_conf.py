"""Custodia's ``custodia.conf``, as CPD-101 writes it: who may read the secrets, where they are kept, under what key.

The file is INI with ``${name}`` and ``${section:name}`` (configparser's ExtendedInterpolation), names case-sensitive;
``${ENV:NAME}`` reads the environment, ``{{ name }}`` is a placeholder of the installer. The rules are those of
Custodia 0.6.0's server (and of 0.5.0 for EtcdStore), except where one would weaken what is promised here; what is
not supported is refused, never passed over.
"""

import configparser
import grp
import pwd
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from strongroom.deploy.settings.layer import Layer, Placeholders, etcd_url, read_text, unknown
from strongroom.storage_service import wire
from strongroom.storage_service.access.registry import AUTHENTICATORS, AUTHORIZERS, Kind
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire.message import SIMPLE

_DIRECTORIES: Final = ("libdir", "logdir", "rundir", "socketdir")  # of DEFAULT; --set may say others
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_ENCTYPE: Final = "A256CBC-HS512"
_ETCD_PORT: Final = "2379"  # etcd v3's; Custodia's 4001 was v2's
_FOREIGN: Final = "custodia."  # a handler may be named by its dotted path in Custodia


def read(path: Path, placeholders: Placeholders, environ: Mapping[str, str]) -> Layer:
    """Return what the file at *path*, and the files of its ``confdpattern``, say.

    Raises:
        ConfigurationError: a file cannot be read, is not INI, leaves a placeholder open, or says something unknown,
            unsupported or contradictory. No message holds a value.
    """
    where = path.name
    parser = _parse(path, placeholders, environ)
    notes: list[str] = []
    values = _global(_Section(parser, where, "global"), notes)
    values |= _plugins(parser, where, notes)
    return Layer(where, values, tuple(notes))


def _parse(path: Path, placeholders: Placeholders, environ: Mapping[str, str]) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=configparser.ExtendedInterpolation())
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are case-sensitive, as in Custodia
    instance = placeholders.given("instance") or "custodia"
    defaults = {
        "hostname": socket.gethostname(),
        "configdir": str(path.parent.absolute()),
        "confdpattern": f"{path.absolute()}.d/*.conf",
        "instance": instance,
        "libdir": f"/var/lib/custodia/{instance}",
        "logdir": f"/var/log/custodia/{instance}",
        "rundir": f"/var/run/custodia/{instance}",
        "socketdir": "/var/run/custodia",
    }
    parser.read_dict({"DEFAULT": _literal(defaults), "ENV": _literal(environ), "global": {}})
    _read_file(parser, path, placeholders)
    pattern = Path(_Section(parser, path.name, "global").text("confdpattern"))
    for more in sorted(pattern.parent.glob(pattern.name)):
        _read_file(parser, more, placeholders)
    given = {name: value for name in _DIRECTORIES if (value := placeholders.given(name)) is not None}
    parser["DEFAULT"].update(_literal(given))
    return parser


def _literal(values: Mapping[str, str]) -> dict[str, str]:
    """Return *values* written so that interpolation gives them back as they are."""
    return {name: value.replace("$", "$$") for name, value in values.items()}


def _read_file(parser: configparser.ConfigParser, path: Path, placeholders: Placeholders) -> None:
    where = path.name
    text = _PLACEHOLDER.sub(lambda found: placeholders.require(found[1], where).replace("$", "$$"), read_text(path))
    # Twice over a section is an error within a file only; a later file adds to the sections of an earlier one.
    # configparser's own messages repeat the offending line, which may hold a secret: the line's number is enough.
    try:
        parser.read_string(text, source=where)
    except configparser.DuplicateOptionError as error:
        raise ConfigurationError(f"{where}: line {error.lineno} says '{error.option}' twice") from None
    except configparser.DuplicateSectionError as error:
        raise ConfigurationError(f"{where}: line {error.lineno} opens [{error.section}] twice") from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigurationError(f"{where}: line {error.lineno} stands before any [section]") from None
    except configparser.ParsingError as error:
        raise ConfigurationError(f"{where}: line {error.errors[0][0]} is not NAME = VALUE") from None


class _Section:
    """One section whose options are taken one by one, each checked; what nobody took at the end is unknown."""

    def __init__(self, parser: configparser.ConfigParser, where: str, name: str) -> None:
        self.name = name
        self._parser = parser
        self._where = where
        self._taken: set[str] = set()

    def error(self, option: str, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._where}: [{self.name}] {option}: {reason}")

    def get(self, option: str) -> str | None:
        self._taken.add(option)
        try:
            value = self._parser.get(self.name, option, fallback=None)
        except configparser.InterpolationError:
            raise self.error(option, "a ${…} in it names nothing, or a '$' stands alone (write $$)") from None
        return value.strip() if value is not None else None

    def text(self, option: str, default: str | None = None) -> str:
        """Return the option; one without a default is required."""
        value = self.get(option) or default
        if value is None:
            raise self.error(option, "is required")
        return value

    def boolean(self, option: str, *, default: bool) -> bool:
        value = self.get(option)
        if value is None:
            return default
        known = configparser.ConfigParser.BOOLEAN_STATES.get(value.lower())
        if known is None:
            raise self.error(option, "is true or false")
        return known

    def octal(self, option: str) -> int | None:
        value = self.get(option)
        if value is None:
            return None
        if re.fullmatch(r"(0o)?[0-7]{1,4}", value) is None or int(value, 8) > 0o777:
            raise self.error(option, "is an octal mode, such as 027")
        return int(value, 8)

    def finish(self) -> None:
        """Refuse options that nobody took; what DEFAULT lends to every section is not this one's doing."""
        for option in self._parser.options(self.name):
            if option not in self._taken and option not in self._parser.defaults():
                raise unknown(f"{self._where}: [{self.name}]", option, self._taken)


def _global(section: _Section, notes: list[str]) -> dict[str, object]:
    where = "custodia.conf: [global]"
    values: dict[str, object] = {"socket": _socket(section)}
    values["audit_log"] = section.text("auditlog", f"{section.text('logdir')}/audit.log")
    values["debug"] = section.boolean("debug", default=False)
    values["makedirs"] = section.boolean("makedirs", default=False)
    if (umask := section.octal("umask")) is not None:
        values["umask"] = f"{umask:04o}"
    if section.get("server_string") is not None:
        notes.append(f"{where} server_string has no effect: answers name no software")
    tls = [section.get(f"tls_{name}") for name in ("cafile", "capath", "certfile", "keyfile", "verify_client")]
    if any(tls):
        notes.append(f"{where} tls_*: have no effect on a unix socket; the proxy has tls_certificate and tls_key")
    section.finish()
    return values


def _socket(section: _Section) -> str:
    url, path = section.get("server_url"), section.get("server_socket")
    if url and path:
        raise section.error("server_url", "and server_socket exclude each other")
    if path:
        return path
    if url:
        parts = urlsplit(url)
        if parts.scheme != "http+unix" or not parts.netloc or parts.path not in {"", "/"}:
            raise section.error(
                "server_url",
                "is http+unix://%2Fpath%2Fto.sock; over TCP secrets are reached through the proxy (listen)",
            )
        return unquote(parts.netloc)
    return f"{section.text('socketdir')}/{section.text('instance')}.sock"


class _Overlay(NamedTuple):
    """An EncryptedOverlay: the URL of the store below it, and its key file."""

    backing: str
    master_key: str
    autogen: bool


class _Stores:
    """The ``store:`` sections by name, each read when first referred to, so that their order does not matter."""

    def __init__(self, parser: configparser.ConfigParser, where: str, names: list[str]) -> None:
        self._sections = {name: _Section(parser, where, f"store:{name}") for name in names}
        self._read: dict[str, str | _Overlay | None] = {}

    def referred(self, section: _Section, option: str) -> str | _Overlay:
        """Return the store that *option* names; a reference to nothing, or in a circle, is refused."""
        name = section.text(option)
        if name not in self._sections:
            raise section.error(option, "there is no store: section of that name")
        store = self.read(name)
        if store is None:
            raise section.error(option, "leads round in a circle")
        return store

    def read(self, name: str) -> str | _Overlay | None:
        if name not in self._read:
            self._read[name] = None  # while it is being read: a circle comes back here
            section = self._sections[name]
            self._read[name] = _handled(section, _STORES, self)
        return self._read[name]


T = TypeVar("T")


def _handled(section: _Section, handlers: Mapping[str, Callable[[_Section, _Stores], T]], stores: _Stores) -> T:
    """Return what the section's handler makes of its options."""
    handler = section.text("handler")
    name = handler.rpartition(".")[2] if handler.startswith(_FOREIGN) else handler
    if name not in handlers:
        supported = ", ".join(sorted(handlers))
        raise section.error("handler", f"'{name}' is not supported here; supported: {supported}")
    section.boolean("debug", default=False)  # debugging is one switch for the process, [global]'s
    made = handlers[name](section, stores)
    section.finish()
    return made


def _etcd_store(section: _Section, stores: _Stores) -> str:
    del stores
    hosts = section.text("etcd_server", "127.0.0.1")
    port = section.text("etcd_port", _ETCD_PORT)
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise section.error("etcd_port", "is a port number")
    if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", hosts) is None:
        raise section.error("etcd_server", "is a host name or address")
    namespace = section.text("namespace", "/custodia").strip("/")
    if re.fullmatch(r"(?!\.)[A-Za-z0-9._@+-]+(/(?!\.)[A-Za-z0-9._@+-]+)*", namespace) is None:
        raise section.error("namespace", "is names joined by single slashes, none of them '.' or '..'")
    return etcd_url(f"{hosts}:{port}", namespace)


def _sqlite_store(section: _Section, stores: _Stores) -> str:
    del stores
    path = section.text("dburi")
    if not path.startswith("/"):
        raise section.error("dburi", "is an absolute path")
    section.get("table")  # the store here has tables of its own, whatever their name was in Custodia
    if section.octal("filemode") not in {None, 0o600}:
        raise section.error("filemode", "is 600 here: nobody else reads the store")
    return f"sqlite:{path}"


def _encrypted_overlay(section: _Section, stores: _Stores) -> _Overlay:
    backing = stores.referred(section, "backing_store")
    if isinstance(backing, _Overlay):
        raise section.error("backing_store", "is an EncryptedOverlay itself")
    if section.text("master_enctype", _ENCTYPE) != _ENCTYPE:
        raise section.error("master_enctype", f"is {_ENCTYPE} here and nothing else")
    if section.text("secret_protection", "pinning") != "pinning":
        raise section.error("secret_protection", "is 'pinning' here: a value opens only under its own name")
    return _Overlay(backing, section.text("master_key"), section.boolean("autogen_master_key", default=False))


_STORES: Final[Mapping[str, Callable[[_Section, _Stores], str | _Overlay]]] = {
    "EtcdStore": _etcd_store,
    "SqliteStore": _sqlite_store,
    "EncryptedOverlay": _encrypted_overlay,
}


def _simple_auth_keys(section: _Section, stores: _Stores) -> dict[str, str]:
    options = {}
    for option in ("id_header", "key_header"):
        header = section.get(option)
        if header is not None:
            if re.fullmatch(r"[A-Za-z0-9_-]+", header) is None:
                raise section.error(option, "is a header's name: letters, digits, '_' and '-'")
            options[option] = header
    # The keys live beside the secrets, as verifiers; Custodia kept them in clear, in the store and namespace named.
    if section.get("store") is not None:
        stores.referred(section, "store")
    section.get("store_namespace")
    return options


def _simple_creds_auth(section: _Section, stores: _Stores) -> dict[str, str]:
    del stores
    return {
        "uid": _number(section, "uid", lambda name: pwd.getpwnam(name).pw_uid),
        "gid": _number(section, "gid", lambda name: grp.getgrnam(name).gr_gid),
    }


def _number(section: _Section, option: str, number_of: Callable[[str], int]) -> str:
    value = section.text(option, "-1")
    if re.fullmatch(r"-?[0-9]+", value, re.ASCII):
        return value
    try:
        return str(number_of(value))
    except KeyError:
        raise section.error(option, "this machine knows no such name") from None


def _simple_path_authz(section: _Section, stores: _Stores) -> dict[str, str]:
    del stores
    paths = section.text("paths").split()
    if not all(path.startswith("/") for path in paths):
        raise section.error("paths", "each begins with a slash")
    return {"paths": " ".join(paths)}


def _user_name_space(section: _Section, stores: _Stores) -> dict[str, str]:
    path = section.text("path", "/")
    if not path.startswith("/"):
        raise section.error("path", "begins with a slash")
    if section.get("store") is not None:
        stores.referred(section, "store")
    return {"path": path}


_Reader = Callable[[_Section, _Stores], dict[str, str]]

# Those whose options Custodia knows in another form, or with words of its own; all others say theirs as they are.
_READERS: Final[Mapping[str, _Reader]] = {
    "SimpleAuthKeys": _simple_auth_keys,
    "SimpleCredsAuth": _simple_creds_auth,
    "SimplePathAuthz": _simple_path_authz,
    "UserNameSpace": _user_name_space,
}


def _readers(table: Mapping[str, Kind]) -> dict[str, _Reader]:
    """Return what reads a section of each handler in *table*."""
    return {name: _READERS.get(name) or _as_said(kind.options) for name, kind in table.items()}


def _as_said(options: Sequence[str]) -> _Reader:
    def read(section: _Section, stores: _Stores) -> dict[str, str]:
        del stores
        found = {option: section.get(option) for option in options}
        return {option: value for option, value in found.items() if value is not None}

    return read


def _root(section: _Section, stores: _Stores) -> dict[str, object]:
    del stores
    if section.name != "/":
        raise section.error("handler", "Root is served at [/] only")
    return {}


def _secrets(section: _Section, stores: _Stores) -> dict[str, object]:
    if section.name != wire.SECRETS_PATH:
        raise section.error("handler", f"Secrets is served at [{wire.SECRETS_PATH}] only")
    if section.text("allowed_keytypes", SIMPLE).split() != [SIMPLE]:
        raise section.error("allowed_keytypes", f"is {SIMPLE!r} here and nothing else")
    store = stores.referred(section, "store")
    if not isinstance(store, _Overlay):
        raise section.error("store", "is not an EncryptedOverlay; secrets are never stored in the clear")
    return {"store": store.backing, "root_key": store.master_key, "autogen_root_key": store.autogen}


_CONSUMERS: Final = {"Root": _root, "Secrets": _secrets}


def _plugins(parser: configparser.ConfigParser, where: str, notes: list[str]) -> dict[str, object]:
    """Return what the sections other than [global] say."""
    families: dict[str, list[str]] = {"auth": [], "authz": [], "store": [], "/": []}
    for name in parser.sections():
        family, _, rest = name.partition(":")
        if name.startswith("/"):
            families["/"].append(name)
        elif rest and family in families:
            families[family].append(rest)
        elif name not in {"ENV", "global"}:
            raise ConfigurationError(
                f"{where}: [{name}] is not a section of this file; sections are global,"
                " auth:…, authz:…, store:… and /path"
            )
    stores = _Stores(parser, where, families["store"])
    for name in families["store"]:
        stores.read(name)

    values: dict[str, object] = {}
    for family, key, table in (("auth", "authenticators", AUTHENTICATORS), ("authz", "authorizers", AUTHORIZERS)):
        values[key] = [
            _plugin(_Section(parser, where, f"{family}:{name}"), _readers(table), stores) for name in families[family]
        ]
        if not values[key]:
            notes.append(f"{where}: without an {family}: section every request is refused")
    for path in families["/"]:
        values |= _handled(_Section(parser, where, path), _CONSUMERS, stores)
    if "store" not in values:
        raise ConfigurationError(f"{where}: no [{wire.SECRETS_PATH}] section with handler Secrets says what to serve")
    return values


def _plugin(section: _Section, handlers: Mapping[str, _Reader], stores: _Stores) -> dict[str, str]:
    options = _handled(section, handlers, stores)
    return {"handler": section.text("handler").rpartition(".")[2]} | options
