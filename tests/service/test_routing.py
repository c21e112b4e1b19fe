"""Which handler keeps what: CPD-101's StorageHandlerManager, as a table of configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from strongroom.models import MODELS, Cluster, Host, HostCreds, HostStatus, Model, Network, SecretModel
from strongroom.storage_service.backends import BACKENDS
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.config import HandlerSettings
from strongroom.storage_service.errors import ConfigurationError, Invalid
from strongroom.storage_service.handlers import Handler
from strongroom.storage_service.routing import SECRETS, Routing, build, plan
from tests.service import single

STORE: Final = "sqlite:/srv/store.db"
PASSWORD: Final = "canary-password"
PLAIN: Final = {model for model in MODELS.values() if not issubclass(model, SecretModel)}
SECRET: Final = set(MODELS.values()) - PLAIN


def entry(
    type: str | None = None,  # noqa: A002  # as in the configuration
    name: str | None = None,
    models: tuple[str, ...] = ("*",),
    **options: str,
) -> HandlerSettings:
    """Return one entry of storage_handlers."""
    return HandlerSettings(type=type, name=name, models=models, options=options)


@dataclass
class Workshop:
    """Makes backends, and remembers of what."""

    made: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    refuse: str = "nothing"

    def make(self, url: str, **options: str) -> Backend:
        """Make one, whatever the URL."""
        if self.refuse in url or self.refuse in options:
            raise ConfigurationError("an sqlite store takes no such option")
        self.made.append((url, options))
        return MemoryBackend()


@pytest.fixture
def workshop() -> Workshop:
    """Give a workshop where nothing was made yet."""
    return Workshop()


def table(workshop: Workshop, *settings: HandlerSettings, store: str = STORE) -> tuple[Routing, Handler, Backend]:
    """Return the table for *settings*, the handler for secrets, and the store of the secrets."""
    backend = MemoryBackend()
    secrets = Handler(backend, secret=True)
    return build(settings, secrets=secrets, store=store, backend=backend, make=workshop.make), secrets, backend


def names(models: tuple[type[Model], ...] | set[type[Model]]) -> list[str]:
    """Return the names of *models*, in order."""
    return sorted(model.__name__ for model in models)


# What is refused

STORIES: Final[list[tuple[str, list[HandlerSettings], str]]] = [
    ("no type", [entry(name="bulk")], "'bulk': the type is missing; give it one of: sqlite, memory, etcd"),
    ("nothing at all", [entry("sqlite"), entry()], "'entry 2': the type is missing"),
    ("unknown type", [entry("redis", url="redis:x")], "'entry 1': there is no such type; the types are: sqlite"),
    ("type over name", [entry("redis", "sqlite")], "'sqlite': there is no such type"),
    (
        "no such model",
        [entry("sqlite", models=("Host", "Hots"))],
        "'sqlite': no model matches 'Hots'; the models are: Clu",
    ),
    ("no such case", [entry("sqlite", models=("host",))], "no model matches 'host'"),
    ("empty pattern", [entry("sqlite", models=("",))], "no model matches ''"),
    ("never stored", [entry("sqlite", models=("HostStatus",))], "no model matches 'HostStatus'"),
    ("list model", [entry("sqlite", models=("Hosts",))], "no model matches 'Hosts'"),
    ("a secret", [entry("sqlite", models=("HostCreds",))], "'HostCreds' are secret, and kept by the handler 'secrets'"),
    ("secrets", [entry("sqlite", models=("Host", "*Creds"))], "'*Creds' are secret"),
    ("same name", [entry("sqlite", "a", ("Host",)), entry("sqlite", "a", ())], "'a': two handlers have this name"),
    ("name of secrets", [entry("sqlite", "secrets")], "'secrets': this name is kept for the handler of the secrets"),
    ("blank name", [entry("sqlite", " ")], "a name must not be blank"),
    (
        "assigned twice",
        [entry("sqlite", "a", ("Host*", "Net*")), entry("sqlite", "b", ("Network",))],
        "'b': Network goes to handler 'a' already; narrow the models of one of the two",
    ),
    ("everything twice", [entry("sqlite"), entry("sqlite")], "'sqlite-1': Network goes to handler 'sqlite' already"),
    (
        "no place",
        [entry("etcd")],
        "'etcd': its url is missing; give it one that begins with etcd:",
    ),
    ("another's place", [entry("etcd", url=STORE)], "'etcd': its url is not one of its type; begin it with etcd:"),
    ("no url", [entry("etcd", url="")], "its url is not one of its type"),
]


@pytest.mark.parametrize(("settings", "reason"), [story[1:] for story in STORIES], ids=[story[0] for story in STORIES])
def test_a_configuration_that_cannot_be_meant_is_refused(
    workshop: Workshop, settings: list[HandlerSettings], reason: str
) -> None:
    """The text names the handler and says what to do; nothing was made."""
    with pytest.raises(ConfigurationError) as raised:
        table(workshop, *settings)

    assert reason in str(raised.value)
    assert not workshop.made


def test_an_option_that_a_backend_refuses_is_told_with_its_handler(workshop: Workshop) -> None:
    """What a backend says of its options comes with the name of the handler that gave them."""
    workshop.refuse = "colour"
    with pytest.raises(ConfigurationError, match=r"^storage_handlers, 'b': an sqlite store takes no such option$"):
        table(workshop, entry("memory", "a", ("Host",)), entry("sqlite", "b", (), colour="red"))


def test_the_real_backends_refuse_an_unknown_option() -> None:
    """With the backends as they are, an option nobody knows is no start."""
    backend = MemoryBackend()
    with pytest.raises(ConfigurationError, match="'memory'"):
        build([entry("memory", colour="red")], secrets=Handler(backend, secret=True), store="memory:", backend=backend)


@pytest.mark.parametrize(
    "settings",
    [
        [entry("etcd", url=f"sqlite://u:{PASSWORD}@h")],
        [entry("etcd", "a", ("x",), url=f"etcd://u:{PASSWORD}@h", password=PASSWORD)],
        [entry("etcd", "a", url=f"etcd://u:{PASSWORD}@h"), entry("etcd", "b", url="etcd://h", password=PASSWORD)],
    ],
)
def test_no_error_and_no_listing_holds_a_credential(settings: list[HandlerSettings]) -> None:
    """URLs and options may hold passwords, so no text repeats them."""
    with pytest.raises(ConfigurationError) as raised:
        plan(settings, STORE)
    assert PASSWORD not in str(raised.value)

    listed = plan([entry("etcd", url=f"etcd://u:{PASSWORD}@h", password=PASSWORD)], STORE)
    assert PASSWORD not in repr(listed)


# What is made


def test_with_nothing_configured_everything_is_beside_the_secrets(workshop: Workshop) -> None:
    """The default is one handler for all plain models, on the store of the secrets."""
    routing, secrets, backend = table(workshop)

    assert {routing.handler_of(model) for model in SECRET} == {secrets}
    assert len({routing.handler_of(model) for model in PLAIN}) == 1
    assert routing.handler_of(Host) is not secrets
    assert routing.handler_of(Host)._backend is backend
    assert (routing.backends, workshop.made) == ((), [])
    assert [(info.name, info.type, info.models) for info in routing.handlers()] == [
        ("secrets", "sqlite", names(SECRET)),
        ("sqlite", "sqlite", names(PLAIN)),
    ]


@pytest.mark.parametrize("store", ["sqlite:/srv/store.db", "memory:", "etcd://h:2379/x"])
def test_the_default_fits_every_store(store: str) -> None:
    """Whatever keeps the secrets keeps the rest, if nothing else is said."""
    (assignment,) = plan([], store)

    assert assignment.store.url == store
    assert set(assignment.models) == PLAIN


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_type_is_inferred_from_a_name(kind: str) -> None:
    """CPD-101's own example has a name and no type: a name that is a type means it."""
    (assignment,) = plan([entry(name=kind, url=f"{kind}:x")], STORE)

    assert assignment.name == assignment.store.scheme == kind


def test_the_star_leaves_secrets_out(workshop: Workshop) -> None:
    """No pattern, however wide, moves a secret to a plain handler."""
    for pattern in ("*", "Host*", "*s*", "[A-Z]*"):
        routing, secrets, _ = table(workshop, entry("sqlite", models=(pattern,)))
        assert {routing.handler_of(model) for model in SECRET} == {secrets}


def test_patterns_divide_the_models(workshop: Workshop) -> None:
    """Each model goes to the handler whose patterns match it; a model matched twice by one handler is no conflict."""
    routing, _, _ = table(
        workshop,
        entry("sqlite", "clusters", ("Cluster", "Cluster*")),
        entry("memory", "hosts", ("Hos?", "Watcher*")),
    )

    assert [(info.name, info.type, info.models) for info in routing.handlers()][1:] == [
        ("clusters", "sqlite", ["Cluster", "ClusterDeploy", "ClusterRestart", "ClusterUpgrade"]),
        ("hosts", "memory", ["Host", "WatcherRecord"]),
    ]
    assert routing.handler_of(Cluster) is routing.handler_for(Cluster(name="c"))
    assert routing.handler_of(Cluster) is not routing.handler_of(Host)
    with pytest.raises(Invalid, match="no handler is configured"):
        routing.handler_of(Network)
    with pytest.raises(Invalid, match="no handler is configured"):
        routing.handler_of(HostStatus)


def test_handlers_without_a_name_get_one() -> None:
    """The first goes by its type, the next by its type and a number; names that were chosen are never taken."""
    settings = [
        entry("sqlite", models=()),
        entry("sqlite", models=()),
        entry("memory", models=()),
        entry("sqlite", "sqlite-2", models=()),
        entry("sqlite", models=()),
        entry("sqlite", "memory", models=()),
    ]

    assert [assignment.name for assignment in plan(settings, STORE)] == [
        "sqlite",
        "sqlite-1",
        "memory-1",
        "sqlite-2",
        "sqlite-3",
        "memory",
    ]


def test_equal_stores_are_one_backend(workshop: Workshop) -> None:
    """Backends are made once for a URL and its options, and the store of the secrets is not made again."""
    other = "sqlite:/srv/other.db"
    routing, _, backend = table(
        workshop,
        entry("sqlite", "same", ("Host",)),
        entry("sqlite", "said", ("Cluster",), url=STORE),
        entry("sqlite", "other", ("Network",), url=other),
        entry("sqlite", "again", ("Watcher*",), url=other),
        entry("sqlite", "slower", (), url=other, busy_timeout="9"),
        entry("memory", "m", ()),
        entry("memory", "n", ()),
    )
    backends = [handler._backend for handler in routing._by_name.values()]

    assert workshop.made == [(other, {}), (other, {"busy_timeout": "9"}), ("memory:", {})]
    assert backends[0] is backends[1] is backend
    assert backends[2] is backends[3] is not backends[4]
    assert backends[5] is backends[6]
    assert routing.backends == (backends[2], backends[4], backends[5])


# Host.source


def test_a_hosts_source_names_its_handler(workshop: Workshop) -> None:
    """A host with a source goes to the handler of that name, also to one that no model goes to by itself."""
    routing, secrets, _ = table(workshop, entry("sqlite"), entry("memory", "attic", ()))
    usual, attic = routing.handler_of(Host), routing.handler_of(Host, "attic")

    assert usual is not attic
    for source, handler in (("", usual), (" ", usual), ("attic", attic), (" attic ", attic), ("sqlite", usual)):
        assert routing.handler_for(Host(address="a", source=source)) is handler
    assert routing.handler_of(Network, "attic") is usual
    assert routing.handler_for(HostCreds(address="a")) is secrets


@pytest.mark.parametrize("source", ["cellar", SECRETS, "Attic", "*"])
def test_an_unknown_source_is_the_callers_fault(workshop: Workshop, source: str) -> None:
    """There is no handler of that name, and the one for secrets is not to be had by asking."""
    routing, _, _ = table(workshop, entry("sqlite"), entry("memory", "attic", ()))
    with pytest.raises(Invalid) as raised:
        routing.handler_for(Host(address="a", source=source))

    assert source not in str(raised.value)


async def test_a_table_of_real_backends_keeps_records(tmp_path: Any) -> None:
    """Made of the real parts, opened by whoever asked for it, each record lies where the table says."""
    backend = MemoryBackend()
    settings = [entry("memory"), entry("sqlite", "attic", (), url=f"sqlite:{tmp_path}/attic.db")]
    routing = build(settings, secrets=Handler(backend, secret=True), store="memory:", backend=backend)
    for each in (backend, *routing.backends):
        await each.open()
    try:
        for host in (Host(address="a"), Host(address="b", source="attic")):
            await single.save(routing.handler_for(host), host)

        assert [stored.record.key for stored in (await routing.handler_of(Host).list(Host)).records] == ["a"]
        assert [stored.record.key for stored in (await routing.handler_of(Host, "attic").list(Host)).records] == ["b"]
    finally:
        for each in (backend, *routing.backends):
            await each.close()
