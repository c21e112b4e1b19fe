"""What both faces are made of: address, caller and patience, and what httpx's errors mean for a write."""

import copy
import inspect
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Self, TypedDict, TypeVar, Unpack, get_args

import httpx

from models.secret import Secret
from storage_service.client.address import Address, Caller, StrPath, read_environment, read_home
from storage_service.client.dialogue import Call, Effect, Patience, Send
from storage_service.errors import ConfigurationError, Fate, Unavailable

Transport = TypeVar("Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)
Sleep = TypeVar("Sleep")

# Answers are not to be compressed: a length that depends on a secret is a hint at it.
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "strongroom"}
_KEPT_OPEN: Final = 30.0  # seconds an idle connection is used again within; the service closes it after 75


class Options(TypedDict, total=False):
    """The arguments of a client beside address and credentials, as `Session` explains them."""

    timeout: float
    connect_timeout: float
    retries: int
    on_behalf_of: str | None
    connections: int
    ssl_context: ssl.SSLContext | None


class Sending:
    """How far a request got: nobody acts on one of which a part was never written to the connection."""

    _NOT_WRITTEN: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.WriteTimeout)
    _BROKEN_OFF: Final = frozenset({"http11.send_request_headers.failed", "http11.send_request_body.failed"})

    def __init__(self) -> None:
        self._broken_off = False

    def trace(self, event: str, _: object) -> None:
        """Be told of an event (httpcore's ``trace`` extension).

        httpcore forgives an error of writing, because an answer may have come early, and reports the missing answer
        instead; here it is remembered.
        """
        if event in self._BROKEN_OFF:
            self._broken_off = True

    async def atrace(self, event: str, info: object) -> None:
        """Be told of an event by httpcore's other half."""
        self.trace(event, info)

    def reached_its_end(self, error: httpx.TransportError) -> bool:
        """Whether all of a request that ended in *error* was written."""
        return not self._broken_off and not isinstance(error, self._NOT_WRITTEN)


class Session(Generic[Transport, Sleep]):
    """A caller of one service, and the connections it keeps open.

    Making one opens nothing: connections are made when first needed, and never carried over a fork. The repr shows
    where the service is and the API id.
    """

    _transport_class: type[Transport]
    _sleep: Sleep

    def __init__(
        self,
        *,
        socket: StrPath | None = None,
        url: str = "",
        api_id: str,
        api_key: str | Secret,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        retries: int = 3,
        on_behalf_of: str | None = None,
        connections: int = 16,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Sleep | None = None,
    ) -> None:
        """Say where the service is, and who asks.

        Args:
            socket: the service's unix socket; or
            url: the HTTP proxy, ``http(s)://host:port``, which offers secrets alone.
            api_id: the API key's id.
            api_key: the API key.
            timeout: seconds for one call, its attempts and pauses together; looked at whenever a part of the answer
                arrives.
            connect_timeout: seconds to connect in, at most.
            retries: attempts after the first, at most; what is repeated at all: ``storage_service.client.dialogue``.
            on_behalf_of: whom the call is made for; goes into the audit log and gives no rights.
            connections: kept open, at most.
            ssl_context: what to trust, for an https url; None: the system's certificate authorities.
            clock: monotonic seconds.
            jitter: 0 to 1, which part of the longest allowed pause to take.
            sleep: how to pause.

        Raises:
            ConfigurationError: the address or a credential cannot be one.
        """
        self._address = Address(None if socket is None else Path(socket), url)
        key = api_key if isinstance(api_key, Secret) else Secret(api_key)
        self._caller = Caller(api_id=api_id, api_key=key, on_behalf_of=on_behalf_of)
        self._patience = Patience(total=timeout, retries=retries, clock=clock, jitter=jitter)
        self._connect_timeout = connect_timeout
        self._owns_transport = True
        self._transport: Transport = self._transport_class(
            verify=ssl_context or _trust(self._address),
            trust_env=False,  # a proxy named in the environment would be sent the API key
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=_KEPT_OPEN),
            uds=None if socket is None else os.fspath(socket),
        )
        if sleep is not None:
            self._sleep = sleep

    @classmethod
    def from_home(cls, home: StrPath, **options: Unpack[Options]) -> Self:
        """Return a client of the service whose home is the directory *home*.

        Raises:
            ConfigurationError: its ``client.json`` cannot be read, or is open to others than its owner.
        """
        return cls._of(*read_home(home), options)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **options: Unpack[Options]) -> Self:
        """Return a client as the variables ``STRONGROOM_…`` say: see ``address.read_environment``.

        Raises:
            ConfigurationError: they do not say enough, or contradict each other.
        """
        return cls._of(*read_environment(environ), options)

    @classmethod
    def _of(cls, address: Address, caller: Caller, options: Options) -> Self:
        return cls(socket=address.socket, url=address.url, api_id=caller.api_id, api_key=caller.api_key, **options)

    def acting_for(
        self,
        on_behalf_of: str | None = None,
        *,
        api_id: str | None = None,
        api_key: str | Secret | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a client for another caller, over the same connections; closing it leaves them open.

        Args:
            on_behalf_of: whom the calls are made for; None: nobody.
            api_id: an API key's id, to be used with
            api_key: its key; None: this client's own.
            headers: further header fields to send.

        Raises:
            ConfigurationError: one of them is given without the other, or a value fits no header field.
        """
        if (api_id is None) is not (api_key is None):
            raise ConfigurationError("api_id and api_key go together")
        key = Secret(api_key) if isinstance(api_key, str) else api_key
        other = copy.copy(self)
        other._caller = Caller(
            api_id=api_id or self._caller.api_id,
            api_key=key or self._caller.api_key,
            on_behalf_of=on_behalf_of,
            headers=headers or {},
        )
        other._owns_transport = False
        return other

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}, api id {self._caller.api_id}>"

    def _request(self, send: Send, trace: Callable[[str, Any], object]) -> httpx.Request:
        """Return the request for one attempt; *trace* is told how far a write gets, and reads are spared that.

        Raises:
            NotImplementedHere: it is not offered at this address.
        """
        call, left = send.call, send.seconds
        limits = httpx.Timeout(left, connect=min(left, self._connect_timeout)).as_dict()
        return httpx.Request(
            call.method,
            self._address.base_url + self._address.path_of(call.path),
            headers={**_HEADERS, **self._caller.fields(), **call.headers},
            content=call.body,
            extensions={"timeout": limits} if call.effect is Effect.READ else {"timeout": limits, "trace": trace},
        )

    def _deadline(self, send: Send) -> float:
        return self._patience.clock() + send.seconds

    def _check(self, deadline: float) -> None:
        """Raise httpx's own error once the time for an attempt is over, however busily the answer drips."""
        if self._patience.clock() > deadline:
            raise httpx.ReadTimeout("the answer goes on for too long")

    def _lost(
        self, call: Call, error: httpx.TransportError, sending: Sending, response: httpx.Response | None
    ) -> Unavailable:
        """Return what an attempt that brought no whole answer is to the caller. No text of httpx's is passed on."""
        match error:
            case httpx.PoolTimeout():
                reason = "every connection to the service is busy"
            case httpx.ConnectTimeout() | httpx.ConnectError():
                reason = f"the service at {self._address} does not listen"
            case httpx.TimeoutException():
                reason = "the service did not answer in time"
            case _:
                reason = "the service closed the connection before its answer was whole"
        if call.effect is Effect.READ or not sending.reached_its_end(error) or self._was_unread(error):
            return Unavailable(reason, Fate.NOT_APPLIED)
        succeeded = response is not None and response.is_success
        return Unavailable(reason, Fate.APPLIED if succeeded else Fate.UNKNOWN)

    def _was_unread(self, error: BaseException) -> bool:
        """Whether the service closed its end with bytes of the request unread.

        Only then does the kernel reset a connection over a unix socket (unix(7), Linux); over TCP a reset can also
        follow a request that was read.
        """
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConnectionResetError):
            cause = cause.__cause__ or cause.__context__
        return cause is not None and self._address.socket is not None


def _trust(address: Address) -> ssl.SSLContext:
    if address.url.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no TLS is spoken, and this trusts nobody and costs nothing


def present_as(method: Callable[..., Any], operation: Callable[..., Any]) -> None:
    """Let *method*, which carries out *operation*, show the operation's name, text and signature in ``help``."""
    told = inspect.signature(operation)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    result = get_args(told.return_annotation)[-1]  # of Generator[Call, Answer, result]
    method.__name__ = method.__qualname__ = operation.__name__
    method.__doc__ = operation.__doc__
    vars(method)["__signature__"] = told.replace(parameters=[me, *told.parameters.values()], return_annotation=result)
