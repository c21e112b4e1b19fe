"""What a shell completes a word with: names that the running service is asked for, quickly, and silently.

Whoever presses Tab has asked for nothing that may fail: where the service is not found, does not answer within a
second, is locked, or refuses, nothing is offered, and nothing is said. Only listings are asked for, never a secret.
"""

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from strongroom.deploy.cli.common import client

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient

DEADLINE: Final = 1.0  # seconds, for all that is asked
MOST: Final = 200  # names that are offered
_PLAIN: Final = re.compile(r"[A-Za-z0-9._@:+/-]+", re.ASCII)  # what a name is made of: nothing else reaches a shell

Complete = Callable[[click.Context, click.Parameter, str], list["CompletionItem[Any]"]]


def _of(ask: "Callable[[StorageClient, str], Iterable[str]]") -> Complete:
    """Return what completes a word with the names that *ask* tells of those that begin like it."""

    def complete(ctx: click.Context, _: click.Parameter, typed: str) -> "list[CompletionItem[Any]]":
        return [CompletionItem(name) for name in _asked(ctx, ask, typed)]

    return complete


def _asked(ctx: click.Context, ask: "Callable[[StorageClient, str], Iterable[str]]", typed: str) -> list[str]:
    found: list[str] = []
    try:
        with ctx.scope(cleanup=False), _deadline(), client(timeout=DEADLINE) as service:
            for name in ask(service, typed):
                if name.startswith(typed) and not name.startswith("-") and _PLAIN.fullmatch(name) is not None:
                    found.append(name)
                if len(found) >= MOST:
                    break
    except Exception:  # noqa: BLE001, S110  # whatever it is, this is no moment to be told of it
        pass
    return found


@contextmanager
def _deadline() -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _secrets(service: "StorageClient", typed: str) -> Iterator[str]:
    return _tree(service, typed, keys=True)


def _containers(service: "StorageClient", typed: str) -> Iterator[str]:
    return _tree(service, typed, keys=False)


def _tree(service: "StorageClient", typed: str, *, keys: bool) -> Iterator[str]:
    """Yield what lies beside *typed*; where that is one container alone, what lies in it, too."""
    first: list[str] = []
    for name in _beside(service, typed, keys=keys):
        yield name
        if len(first) < 2:
            first.append(name)
    # A shell that is offered one word alone ends it, with a space.
    if len(first) == 1 and first[0].endswith("/"):
        yield from _beside(service, first[0], keys=keys)


def _beside(service: "StorageClient", typed: str, *, keys: bool) -> Iterator[str]:
    from strongroom.models import names
    from strongroom.storage_service.errors import Denied

    container, _, begun = typed.rpartition("/")
    if container:
        try:
            yield from (f"{container}/{child}" for child in _children(service, container, begun) if _fits(child, keys))
        except Denied:  # though it may list what lies in that: the root tells
            pass
        else:
            return
    after: str | None = names.before(typed)
    while after is not None:
        found, after = service.list_names(after=after)
        for name in found:
            if not name.startswith(typed):
                return
            yield name


def _fits(child: str, keys: bool) -> bool:
    return keys or child.endswith("/")


def _children(service: "StorageClient", container: str, begun: str) -> Iterator[str]:
    """Yield what lies directly in *container* and begins with *begun*; what is in containers within is passed over."""
    from strongroom.models import names

    after: str | None = names.before(begun)
    while after is not None:
        found, following = service.list_names(container, after)
        inner = ""
        for name in found:
            if inner and name.startswith(inner):
                continue
            if not name.startswith(begun):
                return
            head, slash, _ = name.partition("/")
            inner = head + slash if slash else ""
            yield head + slash
        after = following and (names.behind(inner) if inner else following)


def _hosts(service: "StorageClient", typed: str) -> Iterator[str]:
    from strongroom.models.hosts import Hosts

    del typed
    for source in service.host_sources():
        after: str | None = None
        while True:
            found, after = service.list_keys(Hosts, after, source=source)
            yield from found
            if after is None:
                break


def _api_ids(service: "StorageClient", typed: str) -> Iterator[str]:
    del typed
    return (key.id for key in service.list_apikeys())


def _principals(kind: str) -> "Callable[[StorageClient, str], Iterator[str]]":
    def ask(service: "StorageClient", typed: str) -> Iterator[str]:
        del typed
        after: str | None = ""
        while after is not None:
            found, after = service.list_principals(kind, after)
            yield from (each.principal.partition(":")[2] for each in found)

    return ask


def _members(service: "StorageClient", typed: str) -> Iterator[str]:
    for kind in ("user", "service"):
        if typed.startswith(f"{kind}:") or f"{kind}:".startswith(typed):
            yield from (f"{kind}:{name}" for name in _principals(kind)(service, ""))


def _groups(service: "StorageClient", typed: str) -> Iterator[str]:
    del typed
    return (group.name for group in service.list_groups())


def _rules(service: "StorageClient", typed: str) -> Iterator[str]:
    del typed
    after: str | None = ""
    while after is not None:
        found, after = service.list_rules(after)
        yield from (rule.name for rule in found)


def _runs(service: "StorageClient", typed: str) -> Iterator[str]:
    from strongroom.models import names
    from strongroom.models.names import MIGRATION

    del typed
    after: str | None = None
    while found := service.list_bulk(MIGRATION, after, limit=1).names:
        after = found[0]
        run, slash, _ = after.removeprefix(MIGRATION).partition("/")
        if slash:  # a row of a run, whose other rows are passed over
            after = names.past(f"{MIGRATION}{run}/")
            yield run


def _keysets(service: "StorageClient", typed: str) -> Iterator[str]:
    del typed
    return (each.name for each in service.list_keysets())


def _generations(service: "StorageClient", typed: str) -> Iterator[str]:
    """Yield those that can be retired at all: none that is active."""
    del typed
    return (one.generation for each in service.list_keysets() for one in each.generations if not one.active)


def _backups(service: "StorageClient", typed: str) -> Iterator[str]:
    del typed
    return (each.label for each in service.list_backups())


def _paths(service: "StorageClient", typed: str) -> Iterator[str]:
    """Yield what an API key may reach below the secrets: containers, by their paths, which end in no slash.

    With one, a path is exactly itself, and covers nothing that lies in it.
    """
    from strongroom.models import names

    root = f"/{names.SECRETS}"
    if not typed.startswith(root):
        yield root.rstrip("/")
        return
    yield from (root + name.rstrip("/") for name in _containers(service, typed.removeprefix(root)))


SECRET: Final = _of(_secrets)
CONTAINER: Final = _of(_containers)
HOST: Final = _of(_hosts)
API_ID: Final = _of(_api_ids)
PRINCIPALS: Final = {kind: _of(_principals(kind)) for kind in ("user", "service")}
MEMBER: Final = _of(_members)
GROUP: Final = _of(_groups)
RULE: Final = _of(_rules)
RUN: Final = _of(_runs)
KEYSET: Final = _of(_keysets)
GENERATION: Final = _of(_generations)
BACKUP: Final = _of(_backups)
APIKEY_PATH: Final = _of(_paths)


def source_or_run(ctx: click.Context, parameter: click.Parameter, typed: str) -> "list[CompletionItem[Any]]":
    """Complete what `migrate` takes: a source and its place, which may be a file, or a run."""
    from strongroom.migration.sources import SOURCES

    if ctx.params.get(str(parameter.name)):
        return [CompletionItem(typed, type="file")]
    kinds = [CompletionItem(kind, help=row.help) for kind, row in SOURCES.items() if kind.startswith(typed)]
    return [*kinds, *RUN(ctx, parameter, typed)]
