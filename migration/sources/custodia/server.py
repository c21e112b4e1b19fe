"""A running Custodia, over its unix socket or its URL: whatever its store is, and whatever that is encrypted with.

Custodia lists what is in a container, and in those within it, and never which containers there are; so they must be
named. An item is a secret, and its mark the keyed hash of its value.

Custodia has neither revisions nor a compare-and-set: before a secret is deleted it is read again and compared, and what
somebody else stores between the two is lost. It cannot be told to vacuum either, and says nothing of where its store
lies: where that is SQLite, the source ``custodia-sqlite`` does both.
"""

import asyncio
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote_from_bytes, unquote, urlsplit

import httpx
import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item, Record
from strongroom.migration.retries import Retries
from strongroom.migration.sources.at_once import at_once
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.custodia.records import EMPTY_CONTAINER, Outcome, id_of, key_of, secret
from strongroom.migration.sources.private_file import read_private
from strongroom.models.names import SECRETS
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import why_unread
from strongroom.storage_service.wire import message

T = TypeVar("T")
U = TypeVar("U")

OPTIONS: Final[Mapping[str, Option]] = {
    "container": Option("a container to move, with those in it; Custodia does not list them", many=True, required=True),
    "urlpath": Option("the path below which secrets are, if it is not /secrets/"),
    "api_id": Option("the id of an API key, where Custodia has SimpleAuthKeys"),
    "api_key_file": Option("the file of that API key"),
    "key_header": Option("the name of its header, if it is not CUSTODIA_AUTH_KEY (CPD-101: CUSTODIA_KEY_ID)"),
    "header": Option("NAME=VALUE, such as REMOTE_USER=commissaire where Custodia has SimpleHeaderAuth", many=True),
    "ca_file": Option("of an https URL: the certificate authority to trust, if not those of the system"),
    "cert_file": Option("of an https URL: our certificate and its key, for SimpleClientCertAuth"),
}

_TIMEOUT: Final = 30.0  # seconds for one request, connecting and the whole answer included
_CONNECT: Final = 5.0  # seconds
_QUICK: Final = Retries(attempts=5, first=0.1)  # of what only reads; and what writes is settled as often
# Custodia forks a process a request, and listens with a backlog of five.
_AT_ONCE: Final = 4
_SLICE: Final = 64  # secrets read before they are given out
_MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes: the list of a million names
_CREDENTIALS: Final = re.compile(r"authorization|cookie|.*(key|token|secret|passw).*", re.IGNORECASE)
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # RFC 9110 sec. 5.5, its ASCII part
_JSON: Final = "application/json"


def make(place: str, options: Options, retries: Retries = _QUICK) -> "Custodia":
    """Return the source of the Custodia at *place*: a socket's path, http(s)://HOST:PORT, or http+unix://PATH.

    Raises:
        ConfigurationError: the place or an option is not understood, or says a credential.
    """
    said = {name: values[0] for name, values in options.items() if values}
    door = Door(
        *_address(place),
        path="/" + said.get("urlpath", "/secrets/").strip("/"),
        headers=_headers(options.get("header", ())),
        api_id=said.get("api_id", ""),
        api_key_file=_path(said.get("api_key_file")),
        key_header=said.get("key_header", "CUSTODIA_AUTH_KEY"),
        ca_file=_path(said.get("ca_file")),
        cert_file=_path(said.get("cert_file")),
    )
    if bool(door.api_id) is not bool(door.api_key_file):
        raise ConfigurationError("custodia: api_id and api_key_file go together")
    _check_field(door.key_header, door.api_id or "-")
    return Custodia(door, _containers(options["container"]), retries)


class Door(NamedTuple):
    """Where Custodia is, and who asks."""

    socket: Path | None
    url: str
    path: str  # below which secrets are, without a slash at its end
    headers: Mapping[str, str]
    api_id: str
    api_key_file: Path | None
    key_header: str
    ca_file: Path | None
    cert_file: Path | None

    def client(self) -> httpx.AsyncClient:
        """Return a client of it. It blocks on the disk.

        Raises:
            ConfigurationError: a file cannot be read, or is open to others.
        """
        headers = dict(self.headers)
        if self.api_key_file is not None:
            key = read_private(self.api_key_file).strip().decode("ascii", "replace")
            if _FIELD_VALUE.fullmatch(key) is None:
                raise ConfigurationError(f"{self.api_key_file} holds no API key: one line of ASCII")
            headers |= {"CUSTODIA_AUTH_ID": self.api_id, self.key_header: key}
        transport = httpx.AsyncHTTPTransport(
            verify=self._trust(), trust_env=False, uds=None if self.socket is None else str(self.socket)
        )
        timeout = httpx.Timeout(_TIMEOUT, connect=_CONNECT)
        return httpx.AsyncClient(transport=transport, headers=headers, timeout=timeout, trust_env=False)

    def _trust(self) -> ssl.SSLContext:
        if not self.url.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no TLS is spoken, and this trusts nobody
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                read_private(self.cert_file)
                context.load_cert_chain(self.cert_file)
        except ssl.SSLError:
            raise ConfigurationError("custodia: ca_file and cert_file are files in PEM that can be read") from None
        except OSError as error:
            raise ConfigurationError(
                f"custodia: a file (ca_file or cert_file) cannot be read: {why_unread(error)}"
            ) from None
        return context

    def __str__(self) -> str:
        return self.url or str(self.socket)


class _Answer(NamedTuple):
    status: int
    body: bytes


class _Found(NamedTuple):
    """What is kept under a name: a value that Custodia gives out, or why it does not."""

    mark: str
    value: Secret | None = None
    fault: str = ""


class Custodia:
    """The source."""

    scrub_batch: ClassVar[int] = 32

    def __init__(self, door: Door, containers: Sequence[str], retries: Retries = _QUICK) -> None:
        """Take where Custodia is, what to read: names with a slash at their end, none within another; and retries."""
        self._retries = retries
        self._door = door
        self._containers = containers
        self._digest = Digest()
        self._client: httpx.AsyncClient | None = None

    @property
    def identity(self) -> str:
        """Where Custodia is, and the containers."""
        return f"custodia:{self._door}{self._door.path} {' '.join(map(id_of, map(str.encode, self._containers)))}"

    async def open(self, digest: Digest) -> None:
        """See that Custodia lists every container for us.

        Raises:
            ConfigurationError: a container does not exist, or this is no Custodia.
            SourceRefused: Custodia does not let us.
        """
        self._digest = digest
        self._client = await asyncio.to_thread(self._door.client)
        for container in self._containers:
            if await self._list(container) is None:
                raise ConfigurationError(f"{self._door} has no container {container!a}")

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def count(self) -> int | None:
        """Return how many names Custodia lists: one request a container."""
        return sum([len(await self._names(container)) for container in self._containers])

    async def items(self) -> AsyncIterator[Item]:
        """Yield the secrets, container by container, in the order in which Custodia lists them."""
        for container in self._containers:
            names = await self._names(container)
            for start in range(0, len(names), _SLICE):
                for item in await at_once(self._item, names[start : start + _SLICE], _AT_ONCE):
                    yield item

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the keyed hashes of the values that there are now."""
        return await self._present(ids, lambda _, found: found.mark)

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the records of those names, by a request for each."""
        ids = {id_of(_octets(name.removeprefix(SECRETS))): name for name in names if name.startswith(SECRETS)}
        outcomes = await self._present(list(ids), self._outcome)
        return {
            ids[item_id]: next(iter(outcome.records), None)
            for item_id, outcome in outcomes.items()
            if outcome.records or outcome.fault
        }

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return the values."""
        found = await self._present(ids, lambda _, found: found)
        return {
            item_id: Original(item_id, here.mark, here.value)
            for item_id, here in found.items()
            if here.value is not None
        }

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Delete each, right after it was read again and compared."""
        return await at_once(self._scrub, originals, _AT_ONCE)

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Store each, which Custodia refuses where something is."""
        return await at_once(self._restore, originals, _AT_ONCE)

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the value; only Custodia knows in what form it lies in which files."""
        return [original.content.reveal().encode()]

    async def purge(self) -> Sequence[str]:
        """Do nothing: Custodia has no request for it."""
        return []

    async def places(self) -> Sequence[Place]:
        """Return the store behind Custodia, which cannot be reached through it."""
        return [
            Place(
                f"the store of Custodia at {self._door}",
                None,
                "see its configuration for where that is: vacuum it if it is SQLite, compact and defragment etcd",
            )
        ]

    def __repr__(self) -> str:
        return f"<Custodia {self._door}>"

    # Secrets

    async def _present(self, ids: Sequence[str], take: Callable[[str, _Found], U]) -> Mapping[str, U]:
        """Return what *take* makes of a name and what is kept under it now, of those of our containers that exist."""

        async def look(item_id: str) -> U | None:
            found = await self._read(_name(item_id))
            return None if found is None else take(_name(item_id), found)

        mine = [item_id for item_id in ids if _name(item_id).startswith(tuple(self._containers))]
        taken = await at_once(look, mine, _AT_ONCE)
        return {item_id: one for item_id, one in zip(mine, taken, strict=True) if one is not None}

    async def _names(self, container: str) -> Sequence[str]:
        """Return the names of the secrets in a container, and of the containers in which nothing is."""
        inside = await self._list(container)
        if inside is None:
            raise SourceUnavailable(f"the container {container!a} is gone from {self._door}")
        names = [container + name for name in dict.fromkeys(inside)] or [container]
        parents = {name[: index + 1] for name in names for index, letter in enumerate(name[:-1]) if letter == "/"}
        return [name for name in names if name not in parents]

    async def _list(self, container: str) -> list[str] | None:
        """Return what a container holds, as Custodia answers it; None: there is no such container."""
        answer = await self._ask("GET", container)
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._refuse(answer.status, container)
        return self._decoded(answer, list[str])

    async def _item(self, name: str) -> Item:
        found = await self._read(name)
        if found is None:
            why = "Custodia lists it and does not have it: it was removed meanwhile, or its name is malformed"
            return Outcome(fault=why).item(id_of(_octets(name)), self._digest.of("gone"))
        return self._outcome(name, found).item(id_of(_octets(name)), found.mark)

    def _outcome(self, name: str, found: _Found) -> Outcome:
        if name.endswith("/"):
            return Outcome(notes=(EMPTY_CONTAINER,))
        if found.value is None:
            return Outcome(fault=found.fault)
        return secret(name, _octets(found.value.reveal()))

    async def _read(self, name: str) -> _Found | None:
        """Return what is kept under *name*; None: nothing."""
        if name.endswith("/"):
            return _Found(self._digest.of("container")) if await self._list(name) == [] else None
        answer = await self._ask("GET", name)
        match answer.status:
            case 200:
                value = Secret(self._decoded(answer, message.Message).value)
                return _Found(self._digest.of("value", value.reveal()), value)
            case 404:
                return None
            case 403:
                fault = "Custodia does not let us read it (HTTP 403)"
            case 406:
                fault = "Custodia has no simple message for it (HTTP 406)"
            case 500 if await self._is_well(name):
                fault = "Custodia cannot read it itself (HTTP 500): its log says why"
            case status:
                self._refuse(status, name)
        return _Found(self._digest.of("fault", str(answer.status)), fault=fault)

    async def _is_well(self, name: str) -> bool:
        """Whether Custodia can read its store at all: it says that what is not there is not there."""
        beside = name[: name.rindex("/") + 1] + secrets.token_hex(16)
        return (await self._ask("GET", beside)).status == 404

    async def _scrub(self, original: Original) -> bool:
        name = _name(original.id)
        for _ in range(self._retries.attempts):
            found = await self._read(name)
            if found is None:
                return True
            if found.value is None or found.value != original.content:
                return False
            answer = await self._ask("DELETE", name)
            if answer.status not in (0, 204, 404):
                self._refuse(answer.status, name)
        raise self._unanswered()

    async def _restore(self, original: Original) -> bool:
        name = _name(original.id)
        body = message.encode(original.content.reveal())
        for _ in range(self._retries.attempts):
            found = await self._read(name)
            if found is not None:
                return found.value is not None and found.value == original.content
            # Octets and messages are stored alike, so a message is it in either case.
            answer = await self._ask("PUT", name, body)
            if answer.status == 404:
                await self._make_containers(name)
            elif answer.status not in (0, 201, 409):
                self._refuse(answer.status, name)
        raise self._unanswered()

    async def _make_containers(self, name: str) -> None:
        """Make the containers that *name* lies in, from the outermost on; Custodia answers 200 for one that is."""
        for index, letter in enumerate(name):
            if letter == "/":
                answer = await self._ask("POST", name[: index + 1])
                if answer.status not in (0, 200, 201, 409):  # 409: older versions
                    self._refuse(answer.status, name)

    # Requests

    async def _ask(self, method: str, name: str, message: bytes | None = None) -> _Answer:
        """Return the answer of one request; what only reads is repeated, what writes has the status 0 if unanswered.

        Raises:
            SourceUnavailable: there is none.
        """
        attempts = self._retries.attempts
        for left in reversed(range(attempts if method == "GET" else 1)):
            if method == "GET" and left < attempts - 1:
                await asyncio.sleep(self._retries.pause(left + 1))
            try:
                async with asyncio.timeout(_TIMEOUT):
                    return await self._request(method, name, message)
            except (httpx.TimeoutException, TimeoutError):
                break
            except httpx.TransportError:
                continue
        if method == "GET":
            raise self._unanswered()
        return _Answer(0, b"")

    async def _request(self, method: str, name: str, message: bytes | None) -> _Answer:
        if self._client is None:
            raise SourceUnavailable("the source is closed")
        url = f"{self._door.url or 'http://custodia'}{self._door.path}/{quote_from_bytes(_octets(name))}"
        headers = {"Accept": _JSON} | ({} if message is None else {"Content-Type": _JSON})
        async with self._client.stream(method, url, headers=headers, content=message) as response:
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > _MAX_ANSWER:
                    raise SourceUnavailable(f"an answer of {self._door} is too large to be one of Custodia's")
            return _Answer(response.status_code, bytes(body))

    def _decoded(self, answer: _Answer, form: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=form)
        except UNREADABLE:
            pass  # what it would tell may hold the value
        # HTTP/1.0 ends an answer by closing the connection, so a cut one looks like this too.
        raise SourceUnavailable(f"{self._door} does not answer as Custodia does, or not to the end")

    def _refuse(self, status: int, name: str) -> NoReturn:
        where = f"{self._door.path}/{id_of(_octets(name))}"
        if status in (401, 403):
            raise SourceRefused(
                f"{self._door} refuses us {where} (HTTP {status}): say -o api_id=… -o api_key_file=… or -o header=…,"
                " as its authenticators want it, and see that its authorizers let us reach that path"
            )
        raise SourceUnavailable(f"{self._door} fails at {where} (HTTP {status}): its log says why")

    def _unanswered(self) -> SourceUnavailable:
        trust = ", and that ca_file is who certified it" if self._door.url.startswith("https:") else ""
        return SourceUnavailable(f"{self._door} does not answer: see that Custodia runs, and listens there{trust}")


def _name(item_id: str) -> str:
    return key_of(item_id).decode(errors="surrogateescape")


def _octets(text: str) -> bytes:
    """Return *text* in UTF-8; lone surrogates are passed through, so it may not be UTF-8."""
    return text.encode(errors="surrogatepass")


def _path(said: str | None) -> Path | None:
    return None if said is None else Path(said).absolute()


def _address(place: str) -> tuple[Path | None, str]:
    parts = urlsplit(place)
    if "://" not in place:
        return Path(place).absolute(), ""
    if parts.scheme == "http+unix" and parts.netloc and parts.path in ("", "/"):
        return Path(unquote(parts.netloc)).absolute(), ""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ConfigurationError("custodia: the place is a socket's path, or http(s)://HOST:PORT; see -o urlpath=…")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("custodia: a credential does not belong in the place; see -o api_key_file=…")
    return None, place.rstrip("/")


def _headers(said: Sequence[str]) -> Mapping[str, str]:
    headers = {}
    for each in said:
        name, _, value = each.partition("=")
        _check_field(name, value)
        if _CREDENTIALS.fullmatch(name):
            raise ConfigurationError(f"custodia: header {name} would be a credential in sight; see -o api_key_file=…")
        headers[name] = value
    return headers


def _check_field(name: str, value: str) -> None:
    if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
        raise ConfigurationError("custodia: a header is NAME=VALUE: letters, digits, '_' and '-', and printable ASCII")


def _containers(said: Sequence[str]) -> Sequence[str]:
    """Return the containers in order, each with its slash, without those within another."""
    kept: list[str] = []
    for name in sorted({f"{name.strip('/')}/" for name in said}):
        if name == "/" or not name.isprintable():
            raise ConfigurationError("custodia: name a container; Custodia does not list its root")
        if not kept or not name.startswith(kept[-1]):
            kept.append(name)
    return kept
