"""``strongroom secret rm``: one secret, or a container with all that it holds."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.asking import sure
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import SECRET
from strongroom.deploy.cli.interruption import interruptible
from strongroom.deploy.cli.secret import naming
from strongroom.deploy.cli.secret.far import Far, shown
from strongroom.deploy.cli.secret.listing import Count
from strongroom.deploy.cli.words import Verb

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient


@click.command(cls=Verb)
@click.argument("name", metavar="CONTAINER/KEY", shell_complete=SECRET)
@click.option("--if-match", "etag", metavar="ETAG", help="Only if it is still at this revision.")
@click.option("--recursive", "-r", is_flag=True, help="A container, and all that it holds.")
@click.option("--yes", is_flag=True, help="Do not ask before a container is removed.")
@common_options
def rm(*, name: str, etag: str | None, recursive: bool, yes: bool) -> None:
    """Remove a secret, or with -r a container and all that it holds, after asking."""
    if recursive:
        if etag is not None:
            raise click.UsageError("--if-match is for one secret, -r for a container")
        _tree(naming.container_named(name), yes=yes)
        return
    if name.endswith("/"):
        raise click.UsageError("this is a container: say -r to remove it with all that it holds")
    container, key = naming.split(name)
    with client() as service, naming.of_secret(container, key):
        service.delete_secret(container, key, etag=etag)
    show.done({"name": name, "deleted": True}, f"removed {name}")


def _tree(container: str, *, yes: bool) -> None:
    from strongroom.models.steps import Step

    again = Step("to begin again", "secret rm", {"container": container, "recursive": True})
    with client() as service:
        with interruptible("nothing was removed", again), naming.of_listed(container):
            count = counted(service, container)
        sure(yes, f"remove {count} with {container}/", "nothing was removed")
        far = Far("removed", count.secrets)
        going_on = Step("to go on", "secret rm", {"container": container, "recursive": True})
        with shown(far, "removing", going_on) as one_more:
            prune(service, container, one_more)
    show.done(
        {"container": container, "deleted": True, "containers": count.containers, "secrets": far.done},
        f"removed {container}, {Count(count.containers, far.done)}",
    )


def counted(service: "StorageClient", container: str) -> Count:
    """Return how much *container* is, itself among it."""
    count = Count(containers=1)
    for name in service.walk(container):
        count.add(name)
    return count


def prune(service: "StorageClient", container: str, one_more: Callable[[], None]) -> None:
    """Remove *container*, and before it all that it holds; what somebody else removes meanwhile is as good.

    Raises:
        NotEmpty: something was put there meanwhile.
    """
    from strongroom.storage_service.errors import NotFound

    for name in leaving(container, service.walk(container)):
        inner, _, key = name.rpartition("/")
        with suppress(NotFound), naming.of_container(inner):
            if key:
                service.delete_secret(inner, key)
            else:
                service.delete_container(inner)
        if key:
            one_more()


def leaving(container: str, found: Iterable[str]) -> Iterator[str]:
    """Yield what is *found* in *container*, by whole names: each container behind what it holds, itself in the end."""
    within = [f"{container}/"]
    for inner in found:
        name = f"{container}/{inner}"
        while not name.startswith(within[-1]):
            yield within.pop()
        if name.endswith("/"):
            within.append(name)
        else:
            yield name
    while within:
        yield within.pop()
