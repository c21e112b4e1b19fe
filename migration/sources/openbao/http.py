"""Questions to an OpenBao or Vault server, and in one place what its refusals and failures mean.

The token goes to the server that the operator named, and nowhere else: redirects are not followed, and no proxy of the
environment is used. Without TLS it goes to this machine alone.
"""

import asyncio
import http
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import why_unread

IN_FLIGHT: Final = 16  # requests at once
PAUSES: Final = (0.1, 0.3, 1.0)  # seconds before what could not be answered is asked again

_HEADERS: Final = {
    "Accept-Encoding": "identity",  # a length that depends on a secret is a hint at it
    "X-Vault-Request": "true",  # a listener may demand it, as browsers never send it
}
_PORTS: Final = {"http": 80, "https": 443}
_PASSING: Final = frozenset({429, 502, 503, 504})  # over a quota, or somebody on the way says that nobody is there

T = TypeVar("T")


class PathRefused(SourceRefused):
    """The token does not reach this one path."""


class PathFailed(SourceUnavailable):
    """The server answers with *status*, which says that it could not do this with this one path."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    """What came back: of the codes below 300 or 404, which says that something is not there."""

    status: int
    body: bytes

    @property
    def found(self) -> bool:
        """Whether there was something."""
        return self.status != http.HTTPStatus.NOT_FOUND

    def read(self, of: type[T]) -> T:
        """Return the body as *of*.

        Raises:
            SourceUnavailable: it is something else; nothing of it is repeated.
        """
        try:
            return msgspec.json.decode(self.body, type=of)
        except UNREADABLE:
            pass
        raise SourceUnavailable("the server answers as neither OpenBao nor Vault would")  # after the handler: no quote


class Url(NamedTuple):
    """A place: scheme, host and port, and nothing else."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, place: str) -> "Url":
        """Return the *place* as a URL.

        Raises:
            ConfigurationError: it cannot be used; it is not repeated, as there may be a password in it.
        """
        try:
            parts = urlsplit(place)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
            parts = urlsplit("")
        if parts.scheme not in _PORTS or not host:
            raise ConfigurationError("the place of an OpenBao is a URL such as https://bao.example:8200")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("the URL has credentials in it; give a token with -o token_file=PATH")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigurationError("the URL is scheme, host and port alone; give what to read with -o mount=NAME")
        if parts.scheme == "http" and not _is_loopback(host):
            raise ConfigurationError(
                "over http the token and every secret would cross the network in the clear: use https,"
                " or a tunnel that begins on this machine"
            )
        return cls(parts.scheme, host, port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server:
    """One server, for one event loop, under one token and one namespace.

    Every method raises `SourceUnavailable` where the server does not answer in its time, is sealed or stands by, and
    `SourceRefused` where it does not accept the token. What concerns one path alone is `PathRefused` or `PathFailed`.
    """

    def __init__(self, url: Url, token: Secret, namespace: str, cacert: Path | None, timeout: float) -> None:
        """Take what is needed; it blocks while certificates are read.

        Args:
            url: where it is.
            token: what it is asked with.
            namespace: of its namespaces the one that everything lies in; "" for the root.
            cacert: PEM file of who signed its certificate, where the system does not know them.
            timeout: seconds for one question and its answer.

        Raises:
            ConfigurationError: *cacert* cannot be read, or is invalid.
        """
        self._url = url
        self._timeout = timeout
        self._token = token
        self._namespace = namespace
        try:
            context = ssl.create_default_context(cafile=cacert) if url.scheme == "https" else False
        except ssl.SSLError as error:
            raise ConfigurationError(f"{cacert} holds no certificates in PEM that can be read") from error
        except OSError as error:
            raise ConfigurationError(f"{cacert} cannot be read: {why_unread(error)}") from error
        # PERF: one connection each, because httpcore looks at every connection of a pool for every request. The last
        # one used is taken first.
        self._new_transport = partial(
            httpx.AsyncHTTPTransport, verify=context, trust_env=False, limits=httpx.Limits(max_connections=1)
        )
        self._transports = {self._new_transport() for _ in range(IN_FLIGHT)}
        self._free: asyncio.LifoQueue[httpx.AsyncHTTPTransport] = asyncio.LifoQueue()
        for transport in self._transports:
            self._free.put_nowait(transport)

    async def close(self) -> None:
        """Let go of the connections."""
        for transport in self._transports:
            await transport.aclose()

    async def check(self) -> None:
        """Return if this is an OpenBao or Vault that serves.

        Raises:
            ConfigurationError: something else answers there.
        """
        answer = await self._persistently("sys/seal-status", named=False)
        try:
            state = msgspec.json.decode(answer.content, type=_SealStatus)
        except UNREADABLE:
            state = None
        if state is None:
            raise ConfigurationError(f"neither OpenBao nor Vault answers at {self._url}: see that this is its address")
        if not state.initialized:
            raise SourceUnavailable(f"{self._url} was never initialized: there is nothing to move")
        if state.sealed:
            self._raise_sealed()

    async def get(self, path: str, **query: str) -> Answer:
        """Return the answer about a path, asking again where that may help."""
        return await self._judged(await self._persistently(path, query), path)

    async def write(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Send a change, once.

        Raises:
            PathFailed: it was not done; of a check-and-set status 400 says that somebody else was first.
            SourceUnavailable: whether it was done is not known.
        """
        content = None if body is None else msgspec.json.encode(body)
        await self._judged(await self._send(method, path, content=content), path)

    async def accepts_token(self) -> bool | None:
        """Whether the token is one; None: it may not ask even that."""
        response = await self._persistently("auth/token/lookup-self")
        return True if response.is_success else None if response.status_code == http.HTTPStatus.FORBIDDEN else False

    # Within

    async def _persistently(
        self, path: str, query: Mapping[str, str] | None = None, *, named: bool = True
    ) -> httpx.Response:
        """Ask until there is an answer, or patience ends."""
        for pause in PAUSES:
            try:
                response = await self._send("GET", path, query, named=named)
            except SourceUnavailable:
                await asyncio.sleep(pause)
                continue
            if not response.is_server_error and response.status_code not in _PASSING:
                return response
            if _is_sealed(response):
                break
            await asyncio.sleep(pause)
        return await self._send("GET", path, query, named=named)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        named: bool = True,
    ) -> httpx.Response:
        """Send a request once; it is *named*: with the token, in the namespace."""
        request = httpx.Request(
            method,
            f"{self._url}/v1/{quote(path, safe='/')}",
            params=query,
            headers=_HEADERS | (self._whose() if named else {}),
            content=content,
        )
        try:
            async with asyncio.timeout(self._timeout), self._connection() as free:
                async with aclosing(await free.handle_async_request(request)) as response:
                    await response.aread()
                return response
        except TimeoutError:
            why = f"did not answer within {self._timeout:g} s"
        except httpx.RequestError as error:
            why = "does not answer"
            if "SSL" in str(error):
                why = "speaks no TLS, or has a certificate that nobody known here signed (-o cacert=PATH)"
        raise SourceUnavailable(f"{self._url} {why}: see that it runs and can be reached, then run this again")

    def _whose(self) -> dict[str, str]:
        fields = {"X-Vault-Token": self._token.reveal()}
        return fields | {"X-Vault-Namespace": self._namespace} if self._namespace else fields

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        transport = await self._free.get()
        try:
            yield transport
        except BaseException:
            # A request that is broken off may leave its connection marked as busy, and then nobody gets it any more.
            broken, transport = transport, self._new_transport()
            self._transports ^= {broken, transport}
            await broken.aclose()
            raise
        finally:
            self._free.put_nowait(transport)

    async def _judged(self, response: httpx.Response, path: str) -> Answer:
        """Return what was answered, or raise what it means."""
        status = response.status_code
        if response.is_success or (status == http.HTTPStatus.NOT_FOUND and not _no_namespace(response)):
            return Answer(status, response.content)
        where = shown(path)
        if status == http.HTTPStatus.NOT_FOUND:
            raise ConfigurationError("the server has no such namespace: see -o namespace=NAME")
        if status == http.HTTPStatus.FORBIDDEN:
            raise PathRefused(f"the token does not reach {where}: its policy must allow that")
        if response.is_redirect:
            raise SourceUnavailable(f"{self._url} stands by, and points elsewhere: give the active server's address")
        if _is_sealed(response):
            self._raise_sealed()
        if status in _PASSING or (response.is_server_error and not await self._is_well()):
            raise SourceUnavailable(f"{self._url} answers {status}: see to the server, then run this again")
        raise PathFailed(f"the server answers {status} about {where}: its log says why", status)

    async def _is_well(self) -> bool:
        """Whether the server says of itself that it is unsealed and active: then a failure is that of one path."""
        return (await self._send("GET", "sys/health", named=False)).status_code == http.HTTPStatus.OK

    def _raise_sealed(self) -> NoReturn:
        raise SourceUnavailable(f"{self._url} is sealed: unseal it (bao operator unseal), then run this again")

    def __repr__(self) -> str:
        return f"<Server {self._url}>"


class _SealStatus(msgspec.Struct):
    sealed: bool
    initialized: bool


def shown(path: str) -> str:
    """Return a path as printable ASCII, from which `unquote` makes the path again."""
    return quote(path, safe=_SHOWN)


_SHOWN: Final = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what prints, but for the "%" of the rest


def _is_sealed(response: httpx.Response) -> bool:
    return response.status_code == http.HTTPStatus.SERVICE_UNAVAILABLE and b"sealed" in response.content


def _no_namespace(response: httpx.Response) -> bool:
    return b"namespace not found" in response.content
