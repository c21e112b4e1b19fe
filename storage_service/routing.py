"""Which handler keeps which records: the table of CPD-101's StorageHandlerManager.

Secret models belong to the one handler for secrets before any configuration is read, and no configuration can say
otherwise. Plain models go where ``storage_handlers`` says; a `Host` whose *source* names a handler goes to that one.

`plan` is rules over settings and nothing else; `build` makes the handlers that it lists. Neither opens anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from strongroom.models import MODELS, Host, Model, SecretModel
from strongroom.storage_service.backends import BACKENDS, open_backend
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.config import HandlerSettings
from strongroom.storage_service.errors import ConfigurationError, Invalid
from strongroom.storage_service.handlers import Handler
from strongroom.storage_service.wire import SECRETS_HANDLER

SECRETS: Final = SECRETS_HANDLER
"""The name of the handler for secrets, which no other handler has."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where a backend keeps its bytes: equal stores are one backend. It may hold credentials, so its repr is short."""

    url: str
    options: tuple[tuple[str, str], ...] = ()  # in order of their names

    @property
    def scheme(self) -> str:
        """The type of the store, as ``strongroom.storage_service.backends`` names it."""
        return self.url.partition(":")[0]

    def __repr__(self) -> str:
        return f"<Store {self.scheme}>"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One handler to be: its name, the plain models that go to it, and its store."""

    name: str
    models: tuple[type[Model], ...]
    store: Store


class Kept(NamedTuple):
    """What may be told of a handler: its name, the type of its store, and the names of the models that it keeps."""

    name: str
    type: str
    models: Sequence[str]


@dataclass(frozen=True, slots=True)
class Route:
    """One handler, the scheme of its store, and the models that go to it."""

    name: str
    scheme: str
    models: tuple[type[Model], ...]
    handler: Handler


class Routing:
    """The table; it never changes, since all that is configured is known when it is made."""

    def __init__(self, secrets: Route, plain: Sequence[Route], backends: Sequence[Backend]) -> None:
        """Take the routes, no model twice, and the backends that were made for them."""
        self._routes = (secrets, *plain)
        self._by_model = {model: route.handler for route in self._routes for model in route.models}
        self._by_name = {route.name: route.handler for route in plain}
        self.backends: Final = tuple(backends)
        """What to open before the first request and to close after the last; the store of the secrets is not in it."""

    def handler_of(self, model: type[Model], source: str = "") -> Handler:
        """Return the handler that keeps the records of *model*, or those hosts that *source* names one for.

        Raises:
            Invalid: no handler keeps this model, or there is none of that name. CPD-101 lets a KeyError out here; it
                is the caller's mistake, or the operator's, and nothing is broken.
        """
        if source.strip() and model is Host:
            handler, reason = self._by_name.get(source.strip()), "no handler has the name in source"
        else:
            handler, reason = self._by_model.get(model), "no handler is configured for this model"
        if handler is None:
            raise Invalid(reason)
        return handler

    def handler_for(self, record: Model) -> Handler:
        """Return the handler that keeps *record*; raises what `handler_of` does."""
        return self.handler_of(type(record), record.source if isinstance(record, Host) else "")

    def handlers(self) -> Sequence[Kept]:
        """Return what there is to know of each handler; nothing of its configuration, which may hold credentials."""
        return [
            Kept(route.name, route.scheme, sorted(model.__name__ for model in route.models)) for route in self._routes
        ]


def build(
    settings: Sequence[HandlerSettings],
    *,
    secrets: Handler,
    store: str,
    backend: Backend,
    make: Callable[..., Backend] = open_backend,
) -> Routing:
    """Return the table that *settings* ask for; if it raises, nothing was made that would have to be closed.

    Args:
        settings: the entries of ``storage_handlers``.
        secrets: the handler for secrets.
        store: URL of the store of the secrets.
        backend: that store itself, unencrypted; plain handlers on the same URL share it.
        make: makes a backend of a URL and options, and does no I/O.

    Raises:
        ConfigurationError: as `plan`, or a backend refuses its URL or options.
    """
    backends = {Store(store): backend}
    plain: list[Route] = []
    for assignment in plan(settings, store):
        kept_in = assignment.store
        if kept_in not in backends:
            try:
                backends[kept_in] = make(kept_in.url, **dict(kept_in.options))
            except ConfigurationError as error:
                raise _refused(assignment.name, str(error)) from error
        handler = Handler(backends[kept_in], secret=False)
        plain.append(Route(assignment.name, kept_in.scheme, assignment.models, handler))
    secret_models = tuple(model for model in MODELS.values() if issubclass(model, SecretModel))
    del backends[Store(store)]
    return Routing(Route(SECRETS, Store(store).scheme, secret_models, secrets), plain, tuple(backends.values()))


def plan(settings: Sequence[HandlerSettings], store: str) -> Sequence[Assignment]:
    """Return the handlers that *settings* ask for, in their order; where there are none, one for everything.

    Args:
        settings: the entries of ``storage_handlers``.
        store: URL of the store of the secrets; a handler of its type that names no URL shares it.

    Raises:
        ConfigurationError: an entry cannot be understood or contradicts another; the text says what to do.
    """
    if not settings:
        return plan([HandlerSettings(type=Store(store).scheme)], store)
    types = [_type(index, entry) for index, entry in enumerate(settings)]
    names = _names(settings, types)
    assignments = [
        Assignment(name, _models(name, entry.models), _store(name, kind, entry.options, store))
        for name, kind, entry in zip(names, types, settings, strict=True)
    ]
    keeper: dict[type[Model], str] = {}
    for assignment in assignments:
        for model in assignment.models:
            if model in keeper:
                raise _refused(
                    assignment.name,
                    f"{model.__name__} goes to handler {keeper[model]!r} already; narrow the models of one of the two",
                )
            keeper[model] = assignment.name
    return assignments


def _refused(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"storage_handlers, {name!r}: {reason}")


def _type(index: int, entry: HandlerSettings) -> str:
    kind = entry.type or entry.name
    if kind is not None and kind in BACKENDS:
        return kind
    which = entry.name or f"entry {index + 1}"
    if entry.type is None:
        raise _refused(which, f"the type is missing; give it one of: {', '.join(BACKENDS)}")
    raise _refused(which, f"there is no such type; the types are: {', '.join(BACKENDS)}")


def _names(settings: Sequence[HandlerSettings], types: Sequence[str]) -> Sequence[str]:
    """Return every handler's name: its own, or its type, and where that is taken its type with -1, -2 and so on."""
    taken: set[str] = {SECRETS}
    for entry in settings:
        if entry.name == SECRETS:
            raise _refused(entry.name, "this name is kept for the handler of the secrets; choose another")
        if entry.name is not None and not entry.name.strip():
            raise _refused(entry.name, "a name must not be blank; leave it out, or choose one")
        if entry.name in taken:
            raise _refused(str(entry.name), "two handlers have this name; choose another for one of them")
        if entry.name is not None:
            taken.add(entry.name)
    names: list[str] = []
    for entry, kind in zip(settings, types, strict=True):
        name, count = entry.name or kind, 0
        while entry.name is None and name in taken:
            count += 1
            name = f"{kind}-{count}"
        taken.add(name)
        names.append(name)
    return names


def _models(name: str, patterns: Sequence[str]) -> tuple[type[Model], ...]:
    """Return the plain models that any of *patterns* matches; none for no patterns, and for every pattern some."""
    matched: dict[str, type[Model]] = {}
    for pattern in patterns:
        found = {model: MODELS[model] for model in MODELS if fnmatchcase(model, pattern)}
        plain = {model: found[model] for model in found if not issubclass(found[model], SecretModel)}
        if found and not plain:
            raise _refused(
                name, f"the models {pattern!r} are secret, and kept by the handler {SECRETS!r}; leave them out"
            )
        if not plain:
            raise _refused(name, f"no model matches {pattern!r}; the models are: {', '.join(_plain_names())}")
        matched |= plain
    return tuple(matched.values())


def _plain_names() -> Sequence[str]:
    return sorted(name for name, model in MODELS.items() if not issubclass(model, SecretModel))


def _store(name: str, kind: str, options: Mapping[str, str], secrets_store: str) -> Store:
    """Return where a handler keeps its records: at its ``url``, else where the secrets are if the type is the same."""
    others = tuple(sorted((option, value) for option, value in options.items() if option != "url"))
    url = options.get("url")
    if url is None:
        if Store(secrets_store).scheme == kind:
            return Store(secrets_store, others)
        if kind == "memory":
            return Store("memory:", others)
        raise _refused(name, f"its url is missing; give it one that begins with {kind}:")
    if Store(url).scheme != kind:
        raise _refused(name, f"its url is not one of its type; begin it with {kind}:")
    return Store(url, others)
