"""Questions to an engine that is a server: one POST of JSON, over connections that are kept, bounded in every way.

Where the question goes is the operator's word alone: nothing that a caller says becomes part of the URL, no redirect is
followed, no proxy of the environment is used. Over https the server's certificate is verified; http is for this
machine, and elsewhere for who says so.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from strongroom.models.secret import REDACTED, Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.engines.base import DEADLINE, EngineFailed
from strongroom.storage_service.access.engines.breaker import Admission, Breaker
from strongroom.storage_service.client.place import Place, UpstreamError, trusting
from strongroom.storage_service.client.pool import Connection, Pool
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import http1

CONNECTIONS: Final = 16  # of a worker to one engine, at most
MAX_ANSWER: Final = 64 * 1024  # bytes; a yes or a no takes twenty
OPTIONS: Final = ("url", "ca", "token_file", "plain_http")  # of every engine that is a server

_PORTS: Final = {"http": 80, "https": 443}
_OVERLOADED: Final = frozenset({429, 502, 503, 504})  # not now, says the server, or somebody on the way to it


class Url(NamedTuple):
    """Where an engine is: scheme, host, port, and the path that every question goes to."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, text: str, *, plain: bool) -> Self:
        """Return *text* as a URL; *plain*: http may leave this machine.

        Raises:
            ConfigurationError: it cannot be used; it is not repeated, as there may be a password in it.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in _PORTS or not host or not (text.isascii() and text.isprintable()) or " " in text:
            raise ConfigurationError("'url' of an engine is such as https://opa.example:8181/v1/data/strongroom/allow")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("'url' of an engine has credentials in it; name a file with a token: 'token_file'")
        if parts.query or parts.fragment:
            raise ConfigurationError("'url' of an engine has neither a query nor a fragment")
        if parts.scheme == "http" and not plain and not _is_loopback(host):
            raise ConfigurationError(
                "'url' of an engine is http://, so that anybody on the way could answer yes: use https, or say"
                ' plain_http = "yes" where the network is trusted'
            )
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as the field ``Host`` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Server:
    """A server that answers questions: each within `DEADLINE`, waiting for a connection included.

    The breaker counts silence: no connection, no whole answer in time, or one that says that there is none now. An
    answer that is no yes and no no fails the one question. It does not count, or else somebody who finds a question
    that the server stumbles over would close the engine for all.
    """

    def __init__(
        self,
        url: Url,
        *,
        token: Secret | None = None,
        ca: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the place, the bearer token if it wants one, whose signature to trust, and the breaker's clock.

        Raises:
            ConfigurationError: *ca* has no certificates that can be read, or the token cannot stand in a field.
        """
        context, vouched = trusting(ca) if url.scheme == "https" else (None, "")
        place = Place(host=url.host, port=url.port, context=context, vouched=vouched)
        self._pool = Pool(place, CONNECTIONS, connect_timeout=DEADLINE)
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._target = (url.path or "/").encode()
        self._token = "" if token is None else token.reveal()
        self._fields = [
            (b"host", url.authority.encode()),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
        ]
        if self._token:
            self._fields.append((b"authorization", b"Bearer " + self._token.encode("latin-1", "replace")))
        self.breaker = Breaker(now)

    @classmethod
    def from_options(cls, options: Mapping[str, str], token: Secret | None, path: str = "") -> Self:
        """Return the server that *options* describe; *path* goes behind that of its URL.

        Raises:
            ConfigurationError: they are not understood.
        """
        plain = options.get("plain_http", "no")
        if plain not in ("yes", "no"):
            raise ConfigurationError('\'plain_http\' of an engine is "yes" or "no"')
        url = Url.of(options.get("url", ""), plain=plain == "yes")
        ca = options.get("ca")
        return cls(url._replace(path=url.path + path), token=token, ca=None if ca is None else Path(ca))

    def __repr__(self) -> str:
        return f"<Server {'left alone' if self.breaker.is_open else 'asked'}>"

    async def ask(self, question: object) -> object:
        """Return what the server answers to *question*, both JSON.

        Raises:
            EngineFailed: there is no answer of status 200 that is JSON.
        """
        admission = self.breaker.admit()
        if admission is None:
            raise EngineFailed("it did not answer before, and is left alone for a while")
        try:
            status, body = await self._post(msgspec.json.encode(question), admission)
        except BaseException:
            admission.left()
            raise
        if status in _OVERLOADED:
            admission.failed()
        else:
            admission.passed()
        if status != 200:
            raise EngineFailed(f"it answers with status {status}", self._shown(body))
        try:
            return msgspec.json.decode(body)
        except UNREADABLE:
            pass
        raise EngineFailed("its answer is not JSON", self._shown(body))

    async def _post(self, body: bytes, admission: Admission) -> tuple[int, bytes]:
        deadline = asyncio.get_running_loop().time() + DEADLINE
        crowded = self._places.locked()
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError:
            raise EngineFailed("all connections to it are busy") from None
        try:
            return await self._exchange(http1.write_request(b"POST", self._target, self._fields, body), deadline)
        except UpstreamError as error:
            late = asyncio.get_running_loop().time() >= deadline
            reason = _reason(error, late=late)
        finally:
            self._places.release()
        if not (crowded and late):  # who waited for a connection gave the server less time than it is due
            admission.failed()
        raise EngineFailed(reason)

    async def _exchange(self, request: bytes, deadline: float) -> tuple[int, bytes]:
        connection = await self._pool.exchange(request, deadline, repeatable=True)  # to ask changes nothing
        try:
            body = await _whole(connection) if connection.streamed else connection.body
            return connection.status, body
        finally:
            self._pool.finish(connection)

    def _shown(self, body: bytes) -> str:
        """Return what the log may show of an answer; a server may say our token back to us."""
        text = body.decode("utf-8", "replace")
        return text.replace(self._token, REDACTED) if self._token else text

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


async def _whole(connection: Connection) -> bytes:
    held = b""
    while piece := await connection.read():
        held += piece
        if len(held) > MAX_ANSWER:
            raise UpstreamError("", answered=True)
    return held


def _reason(error: UpstreamError, *, late: bool) -> str:
    """Return why there is no answer, in words for an engine."""
    if error.untrusted:
        return "it is not asked: its certificate is not trusted, or it does not speak TLS ('ca' names an authority)"
    if late:
        return f"it did not answer within {DEADLINE * 1000:.0f} ms"
    if error.answered:
        return f"its answer is broken, or longer than {MAX_ANSWER} bytes"
    return "nobody listens there" if error.absent else "it cannot be reached"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
