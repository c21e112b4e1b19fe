"""The operator's settings, from all the places they come from, made into what the two processes get.

Flags over ``STRONGROOM_*`` over ``strongroom.toml`` over the proposal's two files (``storage.conf``,
``custodia.conf``) over the defaults. Each place is a `Layer`; the first that speaks of a setting decides it. An unknown
name is an error, and every error names the place and the setting, never the value.
"""

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import msgspec.inspect

from strongroom.deploy.home import API_ID, PROXY_ID
from strongroom.deploy.places import CLIENT, CONFIG, DEFAULT_HOME, PREFIX, PROXY_CLIENT, SOCKET, STORE
from strongroom.deploy.settings import custodia_conf, storage_conf
from strongroom.deploy.settings.layer import Layer, Placeholders, read_text, unknown
from strongroom.models.secret import REDACTED, Secret
from strongroom.storage_service import variables
from strongroom.storage_service.access.networks import NetworkRules
from strongroom.storage_service.access.registry import AUTHENTICATORS, AUTHORIZERS, ENGINES, FILES, Kind
from strongroom.storage_service.backends import BACKENDS
from strongroom.storage_service.backends.url import as_said, file_of, of_file, redacted, same_place, split
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.config import (
    AuthenticatorSettings,
    AuthorizerSettings,
    EngineSettings,
    HandlerSettings,
    NetworkRuleSettings,
    ProxyKey,
    ProxySettings,
    ReadThroughSettings,
    ServiceSettings,
)
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.record_of_store import RecordOfStore
from strongroom.storage_service.wire import PROXIED_SECRETS_PATH, login

MAX_SOCKET_PATH: Final = 100  # bytes; the kernel's limit is 107 (unix(7)), and nobody should have to count that close

# A file's name as it is, whatever stands in it, and options of the store behind it.
_SQLITE_FILE: Final = re.compile(r"(.*?)(\?[a-z_]+=[^/?&=]*(?:&[a-z_]+=[^/?&=]*)*)?", re.DOTALL)

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Tables = list[dict[str, str | list[str]]]


class OldPlaceKeys(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One table of ``read_through``: a source of ``strongroom migrate``, as that command is told of it."""

    source: _Text
    place: _Text
    options: dict[str, _Text | list[_Text]] = {}


class NetworkRuleKeys(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One table of ``network_rules``; one that does not say what it is denies."""

    type: Literal["allow", "deny"] = "deny"
    addresses: Annotated[list[_Text], msgspec.Meta(min_length=1)]
    commands: Annotated[list[_Text], msgspec.Meta(min_length=1)]


class Keys(msgspec.Struct, kw_only=True):
    """Every setting with its type and default. Relative paths lie in *home*.

    ``docs/configuration.md`` has the same list for people.
    """

    home: _Text = str(DEFAULT_HOME)
    storage_conf: _Text | None = None
    custodia_conf: _Text | None = None

    store: _Text = "sqlite"  # "sqlite", "memory", or a URL of strongroom.storage_service.backends
    socket: _Text = SOCKET
    socket_mode: _Text = "0660"  # octal
    audit_log: _Text = "log/audit.log"
    root_key: _Text = "secrets.key"
    autogen_root_key: bool = True
    keyring_seen: _Text = "keyring.seen"
    machine_key: _Text = "machine.key"
    machine_documents: _Text | None = None  # None: in the store
    storage_handlers: _Tables = []
    authenticators: _Tables = msgspec.field(default_factory=lambda: [{"handler": "SimpleAuthKeys"}])
    authorizers: _Tables = msgspec.field(default_factory=lambda: [{"handler": "SimplePathAuthz", "paths": "/"}])
    engines: _Tables = []
    network_rules: list[NetworkRuleKeys] = []
    read_through: list[OldPlaceKeys] = []
    client: _Text = CLIENT
    api_id: _Text | None = None  # None: what client.json says
    api_key: _Text | None = None  # likewise; never in a flag or the TOML file
    proxy_client: _Text = PROXY_CLIENT
    proxy_id: _Text | None = None  # None: what proxy.json says
    proxy_key: _Text | None = None  # likewise; never in a flag or the TOML file

    listen: _Text = "127.0.0.1:8000"
    self_auths: list[_Text] = msgspec.field(default_factory=lambda: [PROXIED_SECRETS_PATH])
    proxy_authenticators: _Tables = msgspec.field(default_factory=lambda: [{"name": "apikey"}, {"name": "token"}])
    addresses: list[_Text] = []  # beside those that follow from socket and listen
    tls_certificate: _Text | None = None
    tls_key: _Text | None = None
    tls_minimum: Literal["1.2", "1.3"] = "1.2"  # the file of a new home says 1.3
    tls_client_certificates: Literal["off", "optional", "required"] = "off"
    tls_client_ca: _Text | None = None
    trusted_proxies: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    connections: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0  # seconds

    ready_when_locked: bool = True
    rate_limit: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0  # requests a minute; 0: no limit
    metrics_token: _Text | None = None  # never in a flag or the TOML file; None: metrics are for API keys

    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2  # of the storage service (docs/adr/0009)
    proxy_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    umask: _Text = "0077"  # octal
    makedirs: bool = False
    log_format: Literal["plain", "json"] = "plain"
    debug: bool = False


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Keys)}
_FILE: Final = "_file"  # STRONGROOM_<NAME>_FILE names a file that holds the value, as containers hand secrets over


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of ``strongroom config show``: the value is redacted already."""

    key: str
    value: object
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, resolved."""

    home: Path
    client: Path
    service: ServiceSettings
    proxy: ProxySettings
    workers: int
    proxy_workers: int
    umask: int
    makedirs: bool
    log_format: str  # "plain" | "json"
    debug: bool
    shown: tuple[Shown, ...]
    notes: tuple[str, ...]

    @property
    def grace(self) -> int:
        """Seconds that requests under way have when a process is told to end: a request's own timeout, and two."""
        return math.ceil(self.proxy.timeout) + 2

    def directories(self) -> tuple[Path, ...]:
        """The directories that the service's files lie in."""
        files = [self.service.socket, self.service.audit_log, self.service.root_key]
        if self.service.store.startswith("sqlite:"):
            files.append(file_of(split(self.service.store).path))
        return tuple(dict.fromkeys(file.parent for file in files))


def load(
    *,
    environ: Mapping[str, str],
    home: Path | None = None,
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Mapping[str, str] | None = None,
    without_key: bool = False,
    role: str | None = None,
) -> Settings:
    """Resolve what flags, environment and files say.

    Args:
        environ: the environment; ``os.environ`` but in tests.
        home: where relative paths lie; None: STRONGROOM_HOME, then ``home`` of the file, then the file's directory.
        config: the TOML file; None: STRONGROOM_CONFIG, then ``strongroom.toml`` in the home if there is one.
        flags: settings given on the command line; those that are None are not given.
        sets: ``--set NAME=VALUE``: placeholders and directories of the proposal's two files.
        without_key: let the API key be missing (to look at a configuration before the first start).
        role: the process that will run, ``storage`` or ``proxy``; None: both. The proxy is not told the service's own
            key. The service has no TLS: what is said of it is not held against a service of its own, whose unit may be
            told but half of it.

    Raises:
        ConfigurationError: a file cannot be read or understood, a name is unknown, or two things contradict.
    """
    layers = [_flag(name, value) for name, value in (flags or {}).items() if value is not None]
    layers += _environment(environ)
    home, said_by, file = _home_and_file(environ, home, config)
    layers.append(Layer(said_by, {"home": str(home)}))
    if file is not None:
        layers.append(file)
    placeholders = Placeholders(sets or {}, environ)
    layers += _proposal(home, _merge(layers), placeholders, environ)
    variables.check(environ, placeholders.used)
    return _Resolver(home, layers).settings(without_key=without_key, role=role)


def refuse_another_store(settings: Settings) -> None:
    """Refuse a store that is not the one which the home's records are in.

    Raises:
        ConfigurationError: it is another; the text says what to do.
    """
    if settings.service.store_record is not None:
        RecordOfStore(settings.service.store_record).refuse_another(settings.service.store)


def _flag(name: str, value: object) -> Layer:
    flag = "--" + name.replace("_", "-")
    if redacted(value) != value:
        raise ConfigurationError(
            f"{flag}: a password does not belong on a command line; name the user alone, and set"
            " STRONGROOM_ETCD_PASSWORD"
        )
    return _checked(Layer(flag, {name: value}))


def _environment(environ: Mapping[str, str]) -> list[Layer]:
    """Return a layer for each variable that says a setting."""
    layers = []
    for name in sorted(environ):
        key, value = name.removeprefix(PREFIX).lower(), environ[name]
        if not name.startswith(PREFIX) or not value or key == "home":
            continue
        plain = key.removesuffix(_FILE)
        if plain != key and plain.upper() in variables.IN_A_FILE:
            if environ.get(name[: -len(_FILE)]):
                raise ConfigurationError(f"{name} and {name[: -len(_FILE)]} say the same thing; keep one of them")
            key, value = plain, read_text(Path(value)).strip()
        if key in _FIELDS:
            layers.append(_checked(Layer(name, {key: _from_text(key, value)})))
    return layers


def _home_and_file(
    environ: Mapping[str, str], home: Path | None, config: Path | None
) -> tuple[Path, str, Layer | None]:
    """Return the home, what said so, and the TOML file if there is one."""
    said_by = "--home"
    if home is None and (home := _path(environ.get(PREFIX + "HOME"))) is not None:
        said_by = PREFIX + "HOME"
    config = config or _path(environ.get(PREFIX + "CONFIG"))
    if config is None:
        usual = _expanded(home or DEFAULT_HOME) / CONFIG
        config = usual if usual.exists() else None
    file = _toml(config) if config is not None else None
    if home is None and config is not None and file is not None:
        home, said_by = _path(str(file.values.get("home", ""))) or config.parent, file.source
    if home is None:
        home, said_by = DEFAULT_HOME, "default"
    return _expanded(home).absolute(), said_by, file


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _toml(path: Path) -> Layer:
    try:
        data = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at .*\)$", str(error))  # what stands before it may quote the file
        raise ConfigurationError(f"{path.name}: not TOML {place[0] if place else ''}".rstrip()) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or nesting without end
        raise ConfigurationError(f"{path.name}: this is more than can be read") from None
    if "metrics_token" in data:
        raise ConfigurationError(
            f"{path.name}: 'metrics_token' has no place here; say {PREFIX}METRICS_TOKEN_FILE, a file of mode 0600"
        )
    for key, kept in {"api_key": CLIENT, "proxy_key": PROXY_CLIENT}.items():
        if key in data:
            raise ConfigurationError(f"{path.name}: '{key}' has no place here; it is kept in {kept}, mode 0600")
    return _checked(Layer(path.name, data))


def _proposal(
    home: Path, stated: Mapping[str, tuple[object, str]], placeholders: Placeholders, environ: Mapping[str, str]
) -> list[Layer]:
    """Return the layers of the proposal's two files, where settings name them."""
    layers = []
    if "storage_conf" in stated:
        layers.append(_checked(storage_conf.read(_below(home, stated["storage_conf"][0]), placeholders)))
    if "custodia_conf" in stated:
        layers.append(_checked(custodia_conf.read(_below(home, stated["custodia_conf"][0]), placeholders, environ)))
    placeholders.check_used(_FIELDS)
    if len({os.path.normpath(str(layer.values["socket"])) for layer in layers if "socket" in layer.values}) > 1:
        raise ConfigurationError(
            f"{layers[0].source}: 'custodia_socket_path' is not the server_socket of {layers[1].source};"
            " here one process is both"
        )
    return layers


def _checked(layer: Layer) -> Layer:
    """Return *layer* with its values in the types of `Keys`."""
    values = {}
    for key, value in layer.values.items():
        if key not in _FIELDS:
            raise unknown(layer.source, key, _FIELDS)
        try:
            values[key] = msgspec.convert(value, _FIELDS[key].type)
        except msgspec.ValidationError as error:
            named = layer.source.lstrip("-").lower().replace("-", "_").removeprefix(PREFIX.lower()) == key
            where = layer.source if named else f"{layer.source}: '{key}'"
            wanted = _wanted(key) or f"{str(error)[0].lower()}{str(error)[1:]}"
            raise ConfigurationError(f"{where}: {wanted}") from None
    return Layer(layer.source, values, layer.notes)


def _wanted(key: str) -> str:
    """Return in words what a setting may be; "" where its type, as msgspec tells it, says that well enough."""
    match msgspec.inspect.type_info(_FIELDS[key].type):
        case msgspec.inspect.LiteralType(values=values):
            said = ", ".join(f'"{value}"' for value in values)
            return f"is one of {said}; a file has it in quotes"
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"is a whole number from {least} to {most}"
        case msgspec.inspect.FloatType(gt=above, le=most):
            return f"is a number above {above} and not above {most}"
        case msgspec.inspect.BoolType():
            return "is true or false"
        case _:
            return ""


def _from_text(key: str, text: str) -> object:
    """Return what a variable's text says: numbers and truth in their usual spellings, lists with commas."""
    if key in ("self_auths", "addresses"):
        return [part.strip() for part in text.split(",")]
    try:
        return msgspec.convert(text, _FIELDS[key].type, strict=False)
    except msgspec.ValidationError:
        return text  # `_checked` says what is wrong with it


def _merge(layers: Iterable[Layer]) -> dict[str, tuple[object, str]]:
    """Return each setting's value and source: the first layer that speaks of it decides."""
    merged: dict[str, tuple[object, str]] = {}
    for layer in layers:
        for key, value in layer.values.items():
            merged.setdefault(key, (value, layer.source))
    return merged


def _below(home: Path, text: object) -> Path:
    """Return a path as it was written, or in *home* if it was written relative."""
    return Path(os.path.normpath(home / _expanded(Path(str(text)))))


def _expanded(path: Path) -> Path:
    """Return *path* with its ``~`` put in.

    Raises:
        ConfigurationError: it has one, and nobody knows whose home directory that is.
    """
    try:
        return path.expanduser()
    except RuntimeError:  # HOME is not set, and the user is not in /etc/passwd
        raise ConfigurationError(
            f"{path}: this user has no home directory; say --home DIR, or set {PREFIX}HOME"
        ) from None


class _Resolver:
    """Makes typed settings of the layers, and names the layer that a faulty one came from."""

    def __init__(self, home: Path, layers: list[Layer]) -> None:
        self._home = home
        self._stated = _merge(layers)
        self._notes = tuple(note for layer in layers for note in layer.notes)
        self._keys = Keys(**{key: value for key, (value, _) in self._stated.items()})  # type: ignore[arg-type]

    def settings(self, *, without_key: bool, role: str | None) -> Settings:
        keys = self._keys
        client = _below(self._home, keys.client)
        api_id, api_key = API_ID, Secret("")
        if role != "proxy":
            api_id, api_key = self._credentials("api", "client", API_ID, needed=not without_key)
        needed = not (without_key or role == "storage")
        proxy_id, proxy_key = self._credentials("proxy", "proxy_client", PROXY_ID, needed=needed)
        self._refuse_one_for_both((api_id, api_key), (proxy_id, proxy_key), role)
        socket = self._socket()
        certificate, key = self._pair() if role != "storage" else (None, None)
        store = self._store("store", keys.store)
        workers = keys.workers
        if store.startswith("memory:") and "workers" not in self._stated:
            workers = 1
        if store.startswith("memory:") and workers > 1:
            raise self._error("store", "is memory, which several workers would each have of their own")
        service = ServiceSettings(
            socket=socket,
            audit_log=_below(self._home, keys.audit_log),
            root_key=_below(self._home, keys.root_key),
            store=store,
            storage_handlers=tuple(map(self._handler, keys.storage_handlers)),
            authenticators=tuple(
                AuthenticatorSettings(handler=name, options=options)
                for name, options in self._tables("authenticators", keys.authenticators, AUTHENTICATORS)
            ),
            authorizers=tuple(
                AuthorizerSettings(handler=name, options=options)
                for name, options in self._tables("authorizers", keys.authorizers, AUTHORIZERS)
            ),
            engines=tuple(self._engines()),
            network_rules=self._network_rules(),
            api_id=api_id,
            api_key=api_key,
            proxy=ProxyKey(api_id=proxy_id, api_key=proxy_key) if proxy_key else None,
            users_file=self._users_file(),
            socket_mode=self._octal("socket_mode", keys.socket_mode),
            autogen_root_key=keys.autogen_root_key,
            # What is in memory is another one at each start.
            keyring_seen=None if store.startswith("memory:") else _below(self._home, keys.keyring_seen),
            machine_key=_below(self._home, keys.machine_key),
            machine_documents=self._optional_path("machine_documents"),
            read_through=tuple(map(self._old_place, keys.read_through)),
            store_record=_below(self._home, keys.keyring_seen).with_name(STORE),
            beside=self._beside(store),
            rate_limit=math.ceil(keys.rate_limit / workers),
            ready_when_locked=keys.ready_when_locked,
            addresses=self._addresses(socket),
            debug=keys.debug,
        )
        proxy = ProxySettings(
            socket=socket,
            api_id=proxy_id,
            api_key=proxy_key,
            listen=self._listen(),
            self_auths=tuple(keys.self_auths),
            authenticators=tuple(
                (_text(entry.pop("name", "")), {name: _text(value) for name, value in entry.items()})
                for entry in map(dict, keys.proxy_authenticators)
            ),
            tls_certificate=certificate,
            tls_key=key,
            tls_minimum=keys.tls_minimum,
            tls_client_certificates=keys.tls_client_certificates,
            tls_client_ca=self._optional_path("tls_client_ca"),
            trusted_proxies=keys.trusted_proxies,
            connections=keys.connections,
            timeout=keys.timeout,
            metrics_token=self._metrics_token(),
            debug=keys.debug,
        )
        return Settings(
            home=self._home,
            client=client,
            service=service,
            proxy=proxy,
            workers=workers,
            proxy_workers=keys.proxy_workers,
            umask=self._octal("umask", keys.umask),
            makedirs=keys.makedirs,
            log_format=keys.log_format,
            debug=keys.debug,
            shown=tuple(self._shown(service, proxy)),
            notes=self._notes,
        )

    def _error(self, key: str, reason: str) -> ConfigurationError:
        _, source = self._stated.get(key, (None, "default"))
        return ConfigurationError(f"{source}: '{key}' {reason}")

    def _credentials(self, who: str, file: str, usual: str, *, needed: bool) -> tuple[str, Secret]:
        """Return the API id and key of *who*: those that were said, else those in the file that setting *file* names.

        The key is empty where there is none, and none is *needed*.
        """
        names = f"{who}_id", f"{who}_key"
        api_id, api_key = (getattr(self._keys, name) for name in names)
        path = _below(self._home, getattr(self._keys, file))
        if not needed and path.exists() and not os.access(path, os.R_OK):
            # Who checks the proxy's certificate as the proxy's user may not see what systemd hands to the process.
            self._notes += (f"{path}: this user cannot read it, so it was not looked at",)
        elif (api_id is None or api_key is None) and path.exists():
            kept = ClientFile.read(path)
            for name in names:
                self._stated.setdefault(name, (None, path.name))
            api_id, api_key = api_id or kept.api_id, api_key or kept.api_key.reveal()
        if not api_key and needed:
            key = names[1]
            raise ConfigurationError(
                f"{path} does not exist: 'strongroom up' or install.sh makes it, or say {PREFIX}{key.upper()}"
                if not path.exists()
                else f"{path}: the API key is empty; delete the file for a new one"
            )
        return api_id or usual, Secret(api_key or "")

    def _refuse_one_for_both(self, own: tuple[str, Secret], proxy: tuple[str, Secret], role: str | None) -> None:
        """Refuse a proxy that goes by the service's own id or key: it would reach everything, in the operator's name.

        The proxy alone is not told the service's own; it knows the usual id, and what is said where it looks.
        """
        ids = {own[0]} if role != "proxy" else {API_ID, self._keys.api_id}
        if proxy[0] in ids:
            raise self._error("proxy_id", f"is the service's own; the proxy goes by another, such as {PROXY_ID}")
        if proxy[1] and proxy[1] == (own[1] or Secret(self._keys.api_key or "")):
            raise self._error("proxy_key", f"is the service's own; delete {PROXY_CLIENT}, and have another made")

    def _users_file(self) -> Path | None:
        """Return the users file of the first ``basic``, which is the one that counts."""
        said = next(
            (each.get("filepath") for each in self._keys.proxy_authenticators if each.get("name") == "basic"), ""
        )
        return Path(said) if isinstance(said, str) and said else None

    def _addresses(self, socket: Path) -> tuple[str, ...]:
        """Return where the service is spoken to, as those write it who log in: a login is for one of these."""
        scheme = "http" if self._keys.tls_certificate is None else "https"
        listen = self._listen()
        also = [listen.replace("127.0.0.1:", "localhost:")] if listen.startswith("127.0.0.1:") else []
        faces = [f"{scheme}://{each}" for each in (listen, *also)]
        said = []
        for each in self._keys.addresses:
            try:
                said.append(login.url_address(each) if each.startswith(("http://", "https://")) else each)
            except ValueError:
                raise self._error("addresses", "has one that is not a URL") from None
        named = map(login.url_address, faces)
        return tuple(dict.fromkeys((f"unix:{socket}", login.socket_address(socket), *named, *said)))

    def _network_rules(self) -> tuple[NetworkRuleSettings, ...]:
        rules = tuple(
            NetworkRuleSettings(type=each.type, addresses=tuple(each.addresses), commands=tuple(each.commands))
            for each in self._keys.network_rules
        )
        try:
            NetworkRules(rules)
        except ConfigurationError as error:
            raise self._error("network_rules", f"has one that cannot be: {error}") from None
        return rules

    def _socket(self) -> Path:
        socket = _below(self._home, self._keys.socket)
        if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
            raise self._error(
                "socket",
                f"makes a path of {len(os.fsencode(socket))} bytes; the kernel takes no socket path over"
                f' {MAX_SOCKET_PATH}: choose a shorter home, or say socket = "/run/…"',
            )
        return socket

    def _metrics_token(self) -> Secret:
        token = self._keys.metrics_token
        if token is not None and re.fullmatch(r"[A-Za-z0-9._~+/-]{22,256}=*", token, re.ASCII) is None:
            raise self._error("metrics_token", "is 22 to 256 letters and digits at random: openssl rand -hex 32")
        return Secret(token or "")

    def _optional_path(self, key: str) -> Path | None:
        text = getattr(self._keys, key)
        return None if text is None else _below(self._home, text)

    def _pair(self) -> tuple[Path | None, Path | None]:
        """Return the files of certificate and key, after a look at all that is said of TLS."""
        certificate, key = self._optional_path("tls_certificate"), self._optional_path("tls_key")
        if (certificate is None) != (key is None):
            lacking, there = ("tls_certificate", "tls_key") if certificate is None else ("tls_key", "tls_certificate")
            raise self._error(there, f"needs '{lacking}', too: TLS is spoken with both, or say neither")
        self._check_client_certificates()
        return certificate, key

    def _check_client_certificates(self) -> None:
        """Refuse what would look as if clients were asked for certificates while they are not."""
        keys = self._keys
        asked = keys.tls_client_certificates != "off"
        if asked and keys.tls_certificate is None:
            raise self._error("tls_client_certificates", "needs TLS: say tls_certificate and tls_key")
        if asked and keys.tls_client_ca is None:
            raise self._error("tls_client_certificates", "needs 'tls_client_ca', the authority that signs them")
        if keys.tls_client_ca is not None and "tls_client_certificates" not in self._stated:
            raise self._error("tls_client_ca", 'asks nobody: say tls_client_certificates = "optional" or "required"')

    def _octal(self, key: str, text: str) -> int:
        if re.fullmatch(r"(0o)?[0-7]{3,4}", text) is None or int(text, 8) > 0o777:
            raise self._error(key, 'is an octal mode in quotes, such as "0660"')
        return int(text, 8)

    def _listen(self) -> str:
        listen = self._keys.listen
        host, _, port = listen.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
            raise self._error("listen", "is HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000")
        return listen

    def _store(self, key: str, store: str) -> str:
        """Return *store* as a URL: the short names in full, a relative file in the home."""
        if store == "sqlite":
            store = "sqlite:data/strongroom.db"
        elif store == "memory":
            store = "memory:"
        scheme, _, rest = store.partition(":")
        if scheme not in BACKENDS:
            raise self._error(key, "is sqlite, memory, sqlite:FILE or etcd://HOST:PORT,…/PREFIX")
        if scheme == "sqlite":
            file, options = _SQLITE_FILE.fullmatch(rest).groups(default="")  # type: ignore[union-attr]  # it takes all
            return of_file("sqlite", _below(self._home, file)) + options
        if not store.isprintable():
            raise self._error(key, "has control characters in its URL")
        if scheme == "etcd" and re.match(r"//[^/?]", rest) is None:
            raise self._error(key, "names no server: etcd://HOST:PORT")
        return store

    def _beside(self, store: str) -> str | None:
        """Return the store that this home has where none is said, if *store* is another and that holds something."""
        usual = self._store("store", "sqlite")
        with suppress(OSError):  # there is none, or this user cannot see it
            if not same_place(store, usual) and file_of(split(usual).path).stat().st_size:
                return usual
        return None

    def _handler(self, given: Mapping[str, str | list[str]]) -> HandlerSettings:
        """Return one storage handler; ``strongroom.storage_service.routing`` knows types, names and models."""
        entry = dict(given)
        kind, name, models = entry.pop("type", None), entry.pop("name", None), entry.pop("models", ["*"])
        options = {option: _text(value) for option, value in entry.items()}
        if "url" in options:
            options["url"] = self._store("storage_handlers", options["url"])
        return HandlerSettings(
            type=None if kind is None else _text(kind),
            name=None if name is None else _text(name),
            models=(models,) if isinstance(models, str) else tuple(models),
            options=options,
        )

    def _old_place(self, said: OldPlaceKeys) -> ReadThroughSettings:
        if redacted(said.place) != said.place:
            raise self._error("read_through", "has a place with a password in it; name the file that holds it")
        options = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in said.options.items()}
        return ReadThroughSettings(source=said.source, place=said.place, options=options)

    def _engines(self) -> Iterable[EngineSettings]:
        """Return the engines, each with a name of its own; the files that they name lie in the home."""
        tables = [dict(table) for table in self._keys.engines]
        said = [(_text(table.pop("name", "")), _text(table.pop("stance", ""))) for table in tables]
        made = self._tables("engines", tables, ENGINES)
        names = [name for name, _ in said]
        for (name, stance), (handler, options) in zip(said, made, strict=True):
            if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name, re.ASCII) is None or names.count(name) > 1:
                raise self._error("engines", "each have a 'name' of their own: small letters, digits and hyphens")
            if stance not in ("may-allow", "must-allow"):
                raise self._error("engines", 'each have a \'stance\': "may-allow" or "must-allow"')
            if "url" in options and redacted(options["url"]) != options["url"]:
                raise self._error("engines", "have a url with a password in it; name a file with a token: 'token_file'")
            files = {option: str(_below(self._home, options[option])) for option in FILES & options.keys()}
            yield EngineSettings(name=name, handler=handler, stance=stance, options=options | files)

    def _tables(self, key: str, tables: _Tables, known: Mapping[str, Kind]) -> Iterable[tuple[str, dict[str, str]]]:
        for given in tables:
            entry = dict(given)
            handler = _text(entry.pop("handler", ""))
            if handler not in known:
                raise self._error(key, f"has a handler that is not one of {', '.join(sorted(known))}")
            for option in entry:
                if option not in known[handler].options:
                    raise unknown(f"{key}: {handler}", option, known[handler].options)
            yield handler, {option: _text(value) for option, value in entry.items()}

    def _shown(self, service: ServiceSettings, proxy: ProxySettings) -> Iterable[Shown]:
        resolved: dict[str, object] = {
            "store": as_said(service.store),
            "socket": str(service.socket),
            "audit_log": str(service.audit_log),
            "root_key": str(service.root_key),
            "machine_key": str(service.machine_key),
            "machine_documents": service.machine_documents and str(service.machine_documents),
            "client": str(_below(self._home, self._keys.client)),
            "api_id": service.api_id,
            "api_key": REDACTED if service.api_key else None,
            "proxy_client": str(_below(self._home, self._keys.proxy_client)),
            "proxy_id": proxy.api_id,
            "proxy_key": REDACTED if proxy.api_key else None,
            "metrics_token": REDACTED if proxy.metrics_token else None,
            "storage_handlers": [
                {"name": h.name, "type": h.type, "models": list(h.models)} | dict(h.options)
                for h in service.storage_handlers
            ],
            "network_rules": [
                {"type": rule.type, "addresses": list(rule.addresses), "commands": list(rule.commands)}
                for rule in service.network_rules
            ],
            "read_through": [
                {"source": old.source, "place": old.place, "options": dict(old.options)} for old in service.read_through
            ],
        }
        for key in _FIELDS:
            _, source = self._stated.get(key, (None, "default"))
            yield Shown(key, redacted(resolved.get(key, getattr(self._keys, key))), source)


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)
