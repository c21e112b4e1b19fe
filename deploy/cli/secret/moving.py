"""``strongroom secret mv`` and ``cp``: secrets under another name, one by one, and none is ever lost.

A value is bound to its name, so it is read and written anew: stored at the new name, read back there and compared, and
only then, of a move, removed at the old one, if it is still what was read. Wherever that stops, each secret is at the
old name, or at both, or moved; the same command goes on, for what is at both names already is taken for copied, and of
a move written anew.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from strongroom.deploy.cli import show, words
from strongroom.deploy.cli.common import C, client, common_options
from strongroom.deploy.cli.completion import SECRET
from strongroom.deploy.cli.interruption import interruptible
from strongroom.deploy.cli.secret import naming
from strongroom.deploy.cli.secret.far import Far, shown
from strongroom.deploy.cli.secret.listing import some_secrets
from strongroom.deploy.cli.secret.removing import leaving

if TYPE_CHECKING:
    from strongroom.models.steps import Option, Verb
    from strongroom.storage_service.client import StorageClient
    from strongroom.storage_service.client.operations import StoredSecret

_ATTEMPTS: Final = 3  # to move a secret that somebody else keeps changing
_FROM: Final = click.argument("source", metavar="FROM", shell_complete=SECRET)
_TO: Final = click.argument("target", metavar="TO", shell_complete=SECRET)
_REPLACE: Final = click.option("--replace", is_flag=True, help="Over other values that are there.")
_PARENTS: Final = click.option("--parents", "-p", is_flag=True, help="Make the containers on the way.")
_RECURSIVE: Final = click.option("--recursive", "-r", is_flag=True, help="A container, and all that it holds.")


class _Name(NamedTuple):
    """The name of a secret."""

    container: str
    key: str

    def __str__(self) -> str:
        return f"{self.container}/{self.key}"


class _Way(NamedTuple):
    """What is asked for."""

    verb: "Verb"
    source: str
    target: str
    replace: bool
    parents: bool

    @property
    def moves(self) -> bool:
        """Whether nothing is to stay where it was."""
        return self.verb == "secret mv"

    @property
    def word(self) -> str:
        """What has been done."""
        return "moved" if self.moves else "copied"


def _options(command: C) -> C:
    """Give *command* what moving and copying are told alike."""
    for given in (common_options, _PARENTS, _REPLACE, _RECURSIVE, _TO, _FROM):
        command = given(command)
    return command


@click.command(cls=words.Verb)
@_options
def mv(*, source: str, target: str, recursive: bool, replace: bool, parents: bool) -> None:
    """Move a secret to another name, or with -r a container and all that it holds.

    TO is the new name; of a secret it may be a container with its slash, in which the key stays the same. What is there
    already is not replaced unless --replace is said. If this is interrupted, the same command goes on.
    """
    _go(_Way("secret mv", source, target, replace, parents), recursive=recursive)


@click.command(cls=words.Verb)
@_options
def cp(*, source: str, target: str, recursive: bool, replace: bool, parents: bool) -> None:
    """Copy a secret to another name, or with -r a container and all that it holds.

    TO is the new name; of a secret it may be a container with its slash, in which the key stays the same. What is there
    already is not replaced unless --replace is said. If this is interrupted, the same command goes on.
    """
    _go(_Way("secret cp", source, target, replace, parents), recursive=recursive)


def _go(way: _Way, *, recursive: bool) -> None:
    from strongroom.models.steps import Step

    if recursive:
        _tree(way)
        return
    if way.source.endswith("/"):
        raise click.UsageError("FROM is a container: say -r for it and all that it holds")
    source = _Name(*naming.split(way.source))
    target = _Name(*naming.split(way.target + source.key if way.target.endswith("/") else way.target))
    if source == target:
        raise click.UsageError("FROM and TO are the same name")
    options: dict[str, Option] = {"source": str(source), "place": str(target)}
    options |= {"replace": way.replace, "parents": way.parents}
    safe = "nothing is lost: it is where it was, or at both names" + (", or moved" if way.moves else "")
    with client() as service, interruptible(safe, Step("to go on", way.verb, options)):
        if way.parents:
            naming.make_parents(service, target.container)
        carry(service, source, target, replace=way.replace, remove=way.moves)
    show.done({"from": str(source), "to": str(target), way.word: True}, f"{way.word} {source} to {target}")


# One secret


def carry(service: "StorageClient", source: _Name, target: _Name, *, replace: bool, remove: bool) -> None:
    """Copy a secret and compare the copy; with *remove*, remove then what was copied.

    Raises:
        NotFound: it does not exist, or somebody else removed it meanwhile.
        Exists: there is another value at *target*, and *replace* was not said.
        Changed: somebody else keeps changing one of the two; both are there.
        Contradicted: it is to be removed, and lies in an old place that is read through.
        NoContainer: that of *target* does not exist.
    """
    from strongroom.storage_service.errors import Changed, Contradicted, NotFound
    from strongroom.storage_service.wire.etags import NEW

    copied: _Copy | None = None
    for _ in range(_ATTEMPTS):
        try:
            with naming.of_secret(*source):
                stored = service.get_secret(*source)
        except NotFound as error:
            if copied is not None:  # which stays: somebody else may have moved it, too, and rely on it
                error.args = (f"somebody else removed {source} meanwhile; its copy stays: {target}",)
            raise
        if remove and stored.etag == NEW:
            raise Contradicted(
                f"{source} still lies where it has not moved from: copy it, or finish the migration first"
            )
        own = copied if copied is not None and (copied.made or replace) else None
        copied = _lay(service, stored, target, replace=replace, own=own, anew=remove)
        if not remove:
            return
        try:
            service.delete_secret(*source, etag=stored.etag)
        except Changed:  # or removed: which of the two is found out now
            continue
        return
    raise Changed(f"somebody else keeps changing {source}: it is where it was, and an earlier value is at {target}")


class _Copy(NamedTuple):
    """A copy that was compared: its revision, and whether there was none before it."""

    etag: str
    made: bool


def _lay(
    service: "StorageClient", stored: "StoredSecret", target: _Name, *, replace: bool, own: _Copy | None, anew: bool
) -> _Copy:
    """Store what is *stored* at *target*, unless it is there, and compare what is there then.

    *own* is a copy of an earlier value, which is replaced. A copy that is there already is written *anew* before what
    it is of is removed: of two who move a secret both ways at once, each would else take the other's for its copy, and
    remove it.
    """
    from strongroom.storage_service.errors import Changed, Exists
    from strongroom.storage_service.wire import MAX_SECRET

    # The limit is on what is sent: bytes, which are stored as base64, may be longer than a text may.
    value = stored.reveal_bytes() if len(stored.value) > MAX_SECRET else stored.value

    with naming.of_secret(*target):
        try:
            etag, made = service.set_secret(*target, value, etag=own and own.etag), own is None or own.made
        except Exists:
            there = service.get_secret(*target)
            same = there.value == stored.value
            if same and not anew:
                return _Copy(there.etag, made=False)
            if not same and not replace:
                raise
            etag, made = service.set_secret(*target, value, etag=there.etag), False
        copy = service.get_secret(*target)
    if copy.value != stored.value:
        raise Changed(f"somebody else changed {target} meanwhile: compare it with what is at the old name")
    return _Copy(etag, made)


# A tree


def _tree(way: _Way) -> None:
    from strongroom.models.steps import Step

    source, target = naming.container_named(way.source), naming.container_named(way.target)
    if f"{source}/".startswith(f"{target}/") or f"{target}/".startswith(f"{source}/"):
        raise click.UsageError("FROM and TO lie in each other: use a third name in between")
    options: dict[str, Option] = {"source": source, "place": target, "recursive": True}
    options |= {"replace": way.replace, "parents": way.parents}
    step = Step("to go on", way.verb, options)
    with client() as service:
        with interruptible(f"nothing was {way.word}", step):
            total = _looked_over(service, source, target, replace=way.replace)
            if way.parents:
                naming.make_parents(service, target.rpartition("/")[0])
        both = "one at most is at both" if way.moves else "what is copied is at both"
        far = Far(way.word, total, f"nothing is lost: what is not done is where it was, and {both}")
        with shown(far, "moving" if way.moves else "copying", step) as one_more:
            _carry_all(service, source, target, way, one_more)
    show.done(
        {"from": source, "to": target, way.word: True, "secrets": far.done},
        f"{way.word} {some_secrets(far.done)} from {source}/ to {target}/",
    )


def _carry_all(service: "StorageClient", source: str, target: str, way: _Way, one_more: Callable[[], None]) -> None:
    from strongroom.storage_service.errors import NotEmpty, NotFound

    with naming.of_container(target.rpartition("/")[0]):
        service.create_container(target)
    for name in leaving(source, _making_the_same(service, source, target)):
        container, _, key = name.rpartition("/")
        if key:
            there = _Name(target + container.removeprefix(source), key)
            carry(service, _Name(container, key), there, replace=way.replace, remove=way.moves)
            one_more()
        elif way.moves:
            with suppress(NotFound):
                try:
                    service.delete_container(container)
                except NotEmpty as error:
                    error.args = (f"somebody else put something into {container}/ meanwhile",)
                    raise


def _making_the_same(service: "StorageClient", source: str, target: str) -> Iterator[str]:
    """Yield what *source* holds, and make each container of it in *target* as it comes."""
    for name in service.walk(source):
        if name.endswith("/"):
            service.create_container(f"{target}/{name}")
        yield name


def _looked_over(service: "StorageClient", source: str, target: str, *, replace: bool) -> int:
    """Return how many secrets *source* holds, if none of them would have to replace another value.

    Raises:
        NotFound: there is no such container.
        Exists: some would; nothing was done.
    """
    from strongroom.storage_service.errors import Exists

    total, in_the_way, first = 0, 0, ""
    there = _Beside(service, target)
    with naming.of_listed(source):
        for name in service.walk(source):
            if name.endswith("/"):
                continue
            total += 1
            if not replace and there.has(name) and not _same(service, f"{source}/{name}", f"{target}/{name}"):
                in_the_way += 1
                first = first or name
    if in_the_way:
        raise Exists(
            f"at {target}/ there are other values already under {in_the_way:,} of the {some_secrets(total)}, "
            f"the first is {target}/{first}; nothing was done; say --replace to replace them"
        )
    return total


def _same(service: "StorageClient", one: str, other: str) -> bool:
    found = service.get_secrets([one, other])
    return found[other] is None or found[one] == found[other]


class _Beside:
    """The names in a container, asked for in their order: two listings are gone along side by side, neither held."""

    def __init__(self, service: "StorageClient", container: str) -> None:
        self._names = self._all(service, container)
        self._next = next(self._names, None)

    def has(self, name: str) -> bool:
        """Whether *name*, which sorts behind all that was asked before, is there."""
        while self._next is not None and self._next < name:
            self._next = next(self._names, None)
        return self._next == name

    @staticmethod
    def _all(service: "StorageClient", container: str) -> Iterator[str]:
        from strongroom.storage_service.errors import NotFound

        with suppress(NotFound):  # then nothing is in the way
            yield from service.walk(container)
