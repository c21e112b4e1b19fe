"""What both faces are made of: address, caller and patience, and what a request is that got no answer."""

import copy
import inspect
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Self, TypedDict, TypeVar, Unpack, get_args

from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.address import Address, Caller, StrPath, read_environment, read_home
from strongroom.storage_service.client.place import Place, UpstreamError
from strongroom.storage_service.client.retries import Call, Effect, Patience
from strongroom.storage_service.errors import Barred, ConfigurationError, Fate, NotListening, Unavailable, Untrusted
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.head import trace_in
from strongroom.storage_service.wire.http1 import Field

Transport = TypeVar("Transport")
Sleep = TypeVar("Sleep")

# Answers are not to be compressed: a length that depends on a secret is a hint at it.
_TRACEPARENT: Final = wire.TRACE_HEADER.encode()
_FIELDS: Final = ((b"accept-encoding", b"identity"), (b"user-agent", b"strongroom"))


class Options(TypedDict, total=False):
    """The arguments of a client beside address and credentials, as `Session` explains them."""

    timeout: float
    connect_timeout: float
    retries: int | None
    on_behalf_of: str | None
    connections: int
    ca: StrPath | None
    ssl_context: ssl.SSLContext | None
    trace: Callable[[], str | None] | None


class Session(Generic[Transport, Sleep]):
    """A caller of one service, and the connections it keeps open.

    Making one opens nothing: connections are made when first needed, and a forked child makes its own. The repr shows
    where the service is and the API id.
    """

    _new_transport: Callable[[Place, int, float], Transport]
    _sleep: Sleep

    def __init__(
        self,
        *,
        socket: StrPath | None = None,
        url: str = "",
        api_id: str | None = None,
        api_key: str | Secret | None = None,
        token: str | Secret | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        retries: int | None = None,
        on_behalf_of: str | None = None,
        connections: int = 16,
        ca: StrPath | None = None,
        ssl_context: ssl.SSLContext | None = None,
        trace: Callable[[], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Sleep | None = None,
    ) -> None:
        """Say where the service is, and who asks.

        Args:
            socket: the service's unix socket; or
            url: the HTTP proxy, ``http(s)://host:port``, which offers secrets, access and logins.
            api_id: the API key's id, and
            api_key: the API key; or
            token: what a login gave. Without any of them the client is a stranger's, who can log in and set himself up.
            timeout: seconds for one call, its attempts and pauses together.
            connect_timeout: seconds to connect in, at most.
            retries: attempts after the first, at most; None: as many as the timeout allows. What is repeated at all:
                ``strongroom.storage_service.client.retries``.
            on_behalf_of: whom the call is made for; goes into the audit log and gives no rights.
            connections: kept open, at most.
            ca: a file with the authorities to trust in PEM, for an https url; None: those that ``SSL_CERT_FILE`` and
                ``SSL_CERT_DIR`` name, or else the system's.
            ssl_context: what to trust, in the place of *ca*.
            trace: gives the ``traceparent`` (W3C Trace Context) of what is being done now, for each request; the audit
                log has the id of its trace. What is malformed is left out.
            clock: monotonic seconds.
            jitter: 0 to 1, which part of the longest allowed pause to take.
            sleep: how to pause.

        Raises:
            ConfigurationError: the address or a credential cannot be one, or what *ca* names cannot be used.
        """
        if ca is not None and ssl_context is not None:
            raise ConfigurationError("say ca or ssl_context: each says whom to trust")
        self._address = Address(None if socket is None else Path(socket), url, None if ca is None else Path(ca))
        if token is not None and (api_id is not None or api_key is not None):
            raise ConfigurationError("say an API key or a token: a request shows one credential")
        self._caller = Caller(
            api_id=api_id,
            api_key=Secret(api_key) if isinstance(api_key, str) else api_key,
            on_behalf_of=on_behalf_of,
            proof=_shown(token),
        )
        self._patience = Patience(total=timeout, retries=retries, clock=clock, jitter=jitter)
        self._trace = trace
        self._fields = self._standing_fields()
        self._owns_transport = True
        self._transport = self._new_transport(self._address.place(ssl_context), connections, connect_timeout)
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
        if options.get("ca") is None and options.get("ssl_context") is None:
            options["ca"] = address.ca
        return cls(socket=address.socket, url=address.url, api_id=caller.api_id, api_key=caller.api_key, **options)

    def acting_for(
        self,
        on_behalf_of: str | None = None,
        *,
        api_id: str | None = None,
        api_key: str | Secret | None = None,
        authorization: str | Secret | None = None,
        token: str | Secret | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a client for another caller, over the same connections; closing it leaves them open.

        Args:
            on_behalf_of: whom the calls are made for; None: nobody.
            api_id: an API key's id, to be used with
            api_key: its key; None: this client's own.
            authorization: what to show instead of a key: ``Bearer`` and a token; "": nothing, as *headers* say who; or
            token: the token alone.
            headers: further header fields to send. An ``X-Request-ID`` among them is that of every request.

        Raises:
            ConfigurationError: one of them is given without the other, or a value fits no header field.
        """
        if (api_id is None) is not (api_key is None):
            raise ConfigurationError("api_id and api_key go together")
        if sum(each is not None for each in (api_id, authorization, token)) > 1:
            raise ConfigurationError("say an API key, an authorization or a token: a request shows one credential")
        key = Secret(api_key) if isinstance(api_key, str) else api_key
        proof = Secret(authorization) if isinstance(authorization, str) else authorization
        if proof is None:
            proof = _shown(token)
        other = copy.copy(self)
        other._caller = Caller(
            api_id=api_id or self._caller.api_id,
            api_key=key or self._caller.api_key,
            on_behalf_of=on_behalf_of,
            proof=proof if proof is not None or api_id is not None else self._caller.proof,
            headers=headers or {},
        )
        other._fields = other._standing_fields()
        other._owns_transport = False
        return other

    def __repr__(self) -> str:
        caller = self._caller
        if caller.proof is not None:
            who = "a token"
        else:
            who = "nobody" if caller.api_id is None else f"api id {caller.api_id}"
        return f"<{type(self).__name__} {self._address}, {who}>"

    @property
    def address(self) -> str:
        """What a login says that the service is called: ``unix:PATH``, or the url in one spelling."""
        return self._address.service

    def _standing_fields(self) -> list[Field]:
        """Return the header fields that every request begins with, but for its id."""
        said = [(b"host", self._address.host_field.encode("ascii")), *_FIELDS]
        for name, value in self._caller.fields().items():
            if name.lower().encode("ascii") != http1.REQUEST_ID:
                said.append(_field(name, value))
        return said

    def _request(self, call: Call) -> tuple[bytes, bytes]:
        """Return the request for one attempt, and the id that its answer must go by.

        Raises:
            NotImplementedHere: it is not offered at this address.
        """
        given = self._caller.request_id
        request_id = os.urandom(12).hex().encode() if given is None else given.encode("ascii")
        fields = [
            *self._fields,
            (http1.REQUEST_ID, request_id),
            *(_field(name, value) for name, value in call.headers.items()),
        ]
        traceparent = None if self._trace is None else self._trace()
        if traceparent is not None and trace_in(traceparent) is not None:
            fields.append((_TRACEPARENT, traceparent.encode("ascii")))
        target = self._address.path_of(call.path).encode("ascii")
        return http1.write_request(call.method.encode("ascii"), target, fields, call.body), request_id

    def _lost(self, call: Call, error: UpstreamError, request_id: bytes) -> Unavailable:
        """Return what an attempt that brought no whole answer is to the caller."""
        lost = _what(call, error)
        lost.request_id = request_id.decode("ascii")
        return lost


def _what(call: Call, error: UpstreamError) -> Unavailable:
    if error.untrusted:
        return Untrusted(str(error))
    if error.barred:
        return Barred(str(error))
    if error.absent:
        return NotListening(str(error))
    if call.effect is Effect.READ or error.unread:
        return Unavailable(str(error), Fate.NOT_APPLIED)
    return Unavailable(str(error), Fate.APPLIED if 200 <= error.status < 300 else Fate.UNKNOWN)


def _shown(token: str | Secret | None) -> Secret | None:
    """Return what a request shows as its ``Authorization`` where it has a *token*."""
    if token is None:
        return None
    return Secret(f"Bearer {token.reveal() if isinstance(token, Secret) else token}")


def _field(name: str, value: str) -> Field:
    return name.lower().encode("ascii"), value.encode("ascii")


def present_as(method: Callable[..., Any], operation: Callable[..., Any]) -> None:
    """Let *method*, which carries out *operation*, show the operation's name, text and signature in ``help``."""
    told = inspect.signature(operation)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    result = get_args(told.return_annotation)[-1]  # of Generator[Call, Answer, result]
    method.__name__ = method.__qualname__ = operation.__name__
    method.__doc__ = operation.__doc__
    vars(method)["__signature__"] = told.replace(parameters=[me, *told.parameters.values()], return_annotation=result)
