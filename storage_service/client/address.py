"""Where the service is and who asks: given, read from a home's ``client.json``, or from the environment.

The unix socket is preferred wherever both are known: it serves everything, the URL (the HTTP proxy) secrets and
access.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from strongroom.models.secret import Secret
from strongroom.storage_service import variables, wire
from strongroom.storage_service.client import file as client_file
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.client.place import Place, trusting
from strongroom.storage_service.errors import ConfigurationError, NoCredentials, NotImplementedHere
from strongroom.storage_service.reach import why_unread
from strongroom.storage_service.wire import login
from strongroom.storage_service.wire.access import ACCESS_PATH

ENVIRONMENT: Final = variables.PREFIX
CA: Final = f"{ENVIRONMENT}CA"

StrPath: TypeAlias = str | os.PathLike[str]

_WHOAMI: Final = "/whoami"
_PORTS: Final = {"http": 80, "https": 443}
_LOCATION = re.compile(r"[\w.:%\[\]-]+")  # a host, in any script, and a port
_PATH = re.compile(r"[!-~]*", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)  # RFC 9110 sec. 5.6.2
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)  # RFC 9110 sec. 5.5, its ASCII part


@dataclass(frozen=True, slots=True)
class Address:
    """The service's end of the connection: a socket, or a URL; *ca* is whom an https URL's certificate is to be of."""

    socket: Path | None = None
    url: str = ""
    ca: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called.

        Raises:
            ConfigurationError: both or neither are given, or the URL is no ``http(s)://host[:port]``; or it is one
                without TLS, where a *ca* says that TLS is meant.
        """
        if (self.socket is None) is not bool(self.url):
            raise ConfigurationError("a client needs either the socket or the url of the service")
        if self.url and not _is_url(self.url):
            raise ConfigurationError("the url is http://host:port or https://host:port, without credentials or query")
        if self.ca is not None and self.url.startswith("http:"):
            raise ConfigurationError(f"{self.ca} is to vouch for who listens, which takes TLS: say https:// in the url")

    def __str__(self) -> str:
        return self.url or str(self.socket)

    def place(self, given: ssl.SSLContext | None) -> Place:
        """Return where to connect to; with the program's own context, if one is *given*, where the url asks for TLS.

        Raises:
            ConfigurationError: the authorities that were named cannot be used; nobody is trusted in their place.
        """
        if self.socket is not None:
            return Place(os.fspath(self.socket))
        parts = urlsplit(self.url)
        context, vouched = given, "the client's ssl_context"
        if parts.scheme == "http":
            context = None
        elif context is None:
            context, vouched = trusting(self.ca)
        return Place("", parts.hostname or "", parts.port or _PORTS[parts.scheme], context, vouched)

    @property
    def host_field(self) -> str:
        """What every request says in ``Host``; over a socket that is a mere formality."""
        if self.socket is not None:
            return "strongroom"
        parts = urlsplit(self.url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        host = f"[{host}]" if ":" in host else host
        return host if parts.port in (None, _PORTS[parts.scheme]) else f"{host}:{parts.port}"

    @property
    def service(self) -> str:
        """What the service is called here by whoever logs in: no other service's challenge is answered with it."""
        return login.url_address(self.url) if self.socket is None else login.socket_address(self.socket)

    def path_of(self, path: str) -> str:
        """Return *path*, a path on the socket, as it is called here.

        Raises:
            NotImplementedHere: the proxy does not offer it.
        """
        if self.socket is not None:
            return path
        if path.startswith(wire.SECRETS_PATH + "/"):
            return (
                urlsplit(self.url).path.rstrip("/") + wire.PROXIED_SECRETS_PATH + path.removeprefix(wire.SECRETS_PATH)
            )
        if path == _WHOAMI:
            path = login.WHOAMI_PATH
        if path.startswith((ACCESS_PATH + "/", wire.AUTH_PATH + "/")):
            return urlsplit(self.url).path.rstrip("/") + wire.API_PATH + path
        raise NotImplementedHere(
            "over a url only secrets, access and logins can be reached; everything else needs the unix socket"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and on whose behalf; neither the key nor further header fields stand in the repr.

    Who has neither an API key nor a *proof* is a stranger, as one is before a login.
    """

    api_id: str | None = None
    api_key: Secret | None = None
    on_behalf_of: str | None = None
    proof: Secret | None = None  # an ``Authorization`` to show instead of the key; empty: nothing is shown
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no header field can carry, before a library quotes it in an error of its own.

        Raises:
            ConfigurationError: a value is empty, or not printable ASCII; or the service would not take a request's id.
        """
        if (self.api_id is None) is not (self.api_key is None):
            raise ConfigurationError("api_id and api_key go together")
        if any(_FIELD_NAME.fullmatch(name) is None for name in self.headers):
            raise ConfigurationError("a header field's name is letters, digits and dashes")
        if self.request_id is not None and wire.REQUEST_ID.fullmatch(self.request_id) is None:
            raise ConfigurationError(f"the {wire.REQUEST_ID_HEADER} is 8 to 64 of letters, digits, '.', '_' and '-'")
        for what, value in self.fields().items():
            if _FIELD_VALUE.fullmatch(value) is None:
                raise ConfigurationError(f"the value for {what} is empty or not printable ASCII")

    @property
    def request_id(self) -> str | None:
        """What every request of this caller goes by, if that was given."""
        return next(
            (value for name, value in self.headers.items() if name.lower() == wire.REQUEST_ID_HEADER.lower()), None
        )

    def fields(self) -> dict[str, str]:
        """Return the header fields that say all this; the API key among them."""
        if self.proof is not None:
            return {**self.headers, **({"Authorization": self.proof.reveal()} if self.proof else {})}
        fields = dict(self.headers)
        if self.api_id is not None and self.api_key is not None:
            fields |= {wire.ID_HEADER: self.api_id, wire.KEY_HEADER: self.api_key.reveal()}
        if self.on_behalf_of is not None:
            fields[wire.ON_BEHALF_HEADER] = self.on_behalf_of
        return fields


def _is_url(url: str) -> bool:
    """Whether *url* leads to a host: with no credentials, no query, and nothing that would break a request's lines."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        _ = parts.port  # which is looked at here
    except ValueError:
        return False
    plain = _LOCATION.fullmatch(parts.netloc) is not None and _PATH.fullmatch(parts.path) is not None
    return bool(host) and plain and parts.scheme in _PORTS and not parts.query and not parts.fragment


def read_home(home: StrPath) -> tuple[Address, Caller]:
    """Return what ``client.json`` in *home* says.

    Raises:
        ConfigurationError: the file cannot be read, is no client.json, or others than its owner may read it.
    """
    return _of_file(ClientFile.read(Path(home) / client_file.NAME))


def _of_file(said: ClientFile) -> tuple[Address, Caller]:
    address = Address(url=said.url, ca=said.ca) if said.socket is None else Address(socket=said.socket, ca=said.ca)
    return address, Caller(api_id=said.api_id, api_key=said.api_key)


def read_environment(environ: Mapping[str, str]) -> tuple[Address, Caller]:
    """Return what the environment says.

    ``STRONGROOM_SOCKET`` or ``STRONGROOM_URL``, ``STRONGROOM_API_ID`` and ``STRONGROOM_API_KEY`` say it directly, and
    ``STRONGROOM_CA`` names a file with the authorities that an https URL's certificate is to be signed by. What
    they leave out is read from ``STRONGROOM_CLIENT``, a ``client.json`` that lies anywhere (a relative path lies in the
    home), or that of the home that ``STRONGROOM_HOME`` names; where nothing is left out, neither is looked at. The key
    of such a file is for the addresses that the file names: none other is shown it. Each variable may end in ``_FILE``
    and name a file instead. One that is nobody's is refused, as by every command: it may have been meant for one of
    these, and another key or authority would be used in its place.

    Raises:
        ConfigurationError: something is missing, said twice, in a file that cannot be read, or means nothing.
        NoCredentials: there is no key, or none for the address that variables say.
    """
    said = {name: _variable(environ, name) for name in ("API_ID", "API_KEY")}
    variables.check(environ)
    address, caller, ca = address_said(environ), None, _ca(environ)
    if said["API_ID"] and said["API_KEY"]:
        caller = Caller(api_id=said["API_ID"], api_key=Secret(said["API_KEY"]))
    elif said["API_ID"] or said["API_KEY"]:
        there, missing = ("API_ID", "API_KEY") if said["API_ID"] else ("API_KEY", "API_ID")
        raise ConfigurationError(f"{ENVIRONMENT}{there} is set without {ENVIRONMENT}{missing}; they go together")
    if address is not None and caller is not None:
        return address, caller
    home, file = _variable(environ, "HOME"), _variable(environ, "CLIENT")
    if home or file:
        path = Path(home, file or client_file.NAME)
        said_there = _read_named(path)
        if address is not None:
            _check_names(path, said_there, address)
        known = _of_file(said_there)
        return _vouched(address, known[0], ca), caller or known[1]
    raise (ConfigurationError if address is None else NoCredentials)(_missing(address, caller))


def address_said(environ: Mapping[str, str]) -> Address | None:
    """Return where variables say that the service is, whoever asks; None where only a ``client.json`` may tell.

    Raises:
        ConfigurationError: they contradict each other, or what they say is no address.
    """
    socket, url = _variable(environ, "SOCKET"), _variable(environ, "URL")
    if not socket and not url:
        return None
    return Address(socket=Path(socket)) if socket else Address(url=url, ca=_ca(environ))


def _ca(environ: Mapping[str, str]) -> Path | None:
    return Path(environ[CA]) if environ.get(CA) else None


def _vouched(said: Address | None, known: Address, ca: Path | None) -> Address:
    """Return the address that was *said*, or else the one that is *known*, with whom to trust: *ca*, if it was said."""
    there = said or known
    return replace(there, ca=ca or known.ca) if there.url.startswith("https:") or ca is not None else there


def _check_names(path: Path, file: ClientFile, address: Address) -> None:
    """Refuse to show the key of the *file* at *path* to another than that file names.

    Raises:
        NoCredentials: the file does not name *address*.
    """
    if address.socket is not None:
        named = file.socket is not None and os.path.realpath(file.socket) == os.path.realpath(address.socket)
    else:
        named = _is_url(file.url) and login.url_address(file.url) == login.url_address(address.url)
    if not named:
        raise NoCredentials(
            f"the API key of {path} is for the addresses that this file names, and {address} is another: set"
            " STRONGROOM_API_ID and STRONGROOM_API_KEY to a key of that service"
        )


def _read_named(path: Path) -> ClientFile:
    """Return what the file that variables led to says; where it is not there, variables may say it all.

    Raises:
        ConfigurationError: as `read_home`.
    """
    try:
        return ClientFile.read(path)
    except ConfigurationError as error:
        if isinstance(error.__cause__, PermissionError):
            raise NoCredentials(str(error)).advising(*error.next) from error.__cause__
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        where = "STRONGROOM_SOCKET (or _URL), STRONGROOM_API_ID and STRONGROOM_API_KEY"
        raise NoCredentials(f"{error}; where there is no home, set {where}").advising(*error.next) from error.__cause__


def _missing(address: Address | None, caller: Caller | None) -> str:
    """Return what is to be said, where nothing leads to a ``client.json`` and one of the two is not known."""
    if address is not None:
        return (
            "no API key is given: set STRONGROOM_API_ID and STRONGROOM_API_KEY, or STRONGROOM_HOME or"
            " STRONGROOM_CLIENT for a client.json that has one"
        )
    if caller is not None:
        return "the service's address is not given: set STRONGROOM_SOCKET or STRONGROOM_URL, or STRONGROOM_HOME"
    return "set STRONGROOM_HOME, or STRONGROOM_SOCKET (or _URL) with STRONGROOM_API_ID and _API_KEY"


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Return a variable's value, or the first line of the file that its ``_FILE`` twin names; "" for neither."""
    value, file = environ.get(ENVIRONMENT + name, ""), environ.get(f"{ENVIRONMENT}{name}_FILE", "")
    if value and file:
        raise ConfigurationError(f"{ENVIRONMENT}{name} and {ENVIRONMENT}{name}_FILE contradict each other")
    if not file:
        return value
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the file of {ENVIRONMENT}{name}_FILE cannot be read: {why_unread(error)}") from None
