"""Names as they are typed: of secrets, and of containers; and errors that say which one is meant."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient


def split(name: str) -> tuple[str, str]:
    """Return the container and the key of the secret *name*.

    Raises:
        UsageError: it is a container's.
        InvalidName: the service would refuse it.
    """
    container, _, key = name.rpartition("/")
    if not container or not key:
        raise click.UsageError("a secret's name is CONTAINER/KEY")
    check(name)
    return container, key


def check(name: str) -> None:
    """Refuse, before anything is done, a *name* that the service would refuse: in one spelling there is one secret.

    Raises:
        InvalidName: it is such.
    """
    from strongroom.models import names

    names.check(names.SECRETS + name)


def container_named(name: str) -> str:
    """Return the container *name* without its slash.

    Raises:
        InvalidName: the service would refuse it.
    """
    bare = name.removesuffix("/")
    check(f"{bare}/")
    return bare


@contextmanager
def of_secret(container: str, key: str, service: "StorageClient | None" = None) -> Iterator[None]:
    """Let errors inside name the secret, or its container where that is missing.

    With a *service*, it is asked whether a secret that is not found has a container: whoever may not list that is told
    of the secret alone.
    """
    from strongroom.storage_service.errors import Changed, Exists, NotFound

    name = f"{container}/{key}"
    with of_container(container):
        try:
            yield
        except NotFound as error:
            lost = service is not None and _is_missing(service, container)
            error.args = (
                f"there is no such secret: {name}" + (f"; there is no container {container}" if lost else ""),
            )
            raise
        except Exists as error:
            error.args = (f"{name} exists already; say --replace to replace it",)
            raise
        except Changed as error:
            error.args = (f"{error}: {name}",)
            raise


def _is_missing(service: "StorageClient", container: str) -> bool:
    """Whether there is no such container, as far as that is told."""
    from strongroom.models.errors import StrongroomError
    from strongroom.storage_service.errors import NotFound

    try:
        service.list_names(container, limit=1)
    except NotFound:
        return True
    except StrongroomError:  # the first error is the one to tell
        return False
    return False


def refuse_taken(service: "StorageClient", container: str, key: str, *, parents: bool) -> None:
    """Refuse a new secret whose name is taken, or whose container is missing, before somebody types its value.

    The container is listed, for whoever writes a secret need not read the one that is there. Who may not list is told
    when it is stored.

    Raises:
        Exists: there is one of that name.
        NoContainer: there is no such container, and *parents* are not to be made.
    """
    from strongroom.models import names
    from strongroom.storage_service.errors import Denied, Exists, NoContainer, NotFound

    with of_secret(container, key):
        try:
            found, _ = service.list_names(container, names.before(key), limit=1)
        except Denied:
            return
        except NotFound:
            if parents:
                return
            raise NoContainer(f"there is no container {container}") from None
        if found == [key]:
            raise Exists("it is there already")


@contextmanager
def of_container(container: str) -> Iterator[None]:
    """Let errors inside that a container is missing, or is not empty, name *container*."""
    from strongroom.models.steps import Step
    from strongroom.storage_service.errors import NoContainer, NotEmpty

    try:
        yield
    except NoContainer as error:
        error.args = (f"there is no container {container}",)
        error.next = (Step("make it first", "secret mkdir", {"container": container}),)
        raise
    except NotEmpty as error:
        error.args = (f"the container {container} is not empty",)
        raise


@contextmanager
def of_listed(container: str) -> Iterator[None]:
    """Let errors inside, that a container is not found, name it."""
    from strongroom.storage_service.errors import NotFound

    with of_container(container):
        try:
            yield
        except NotFound as error:
            error.args = (f"there is no container {container}",)
            raise


def make_parents(service: "StorageClient", container: str) -> None:
    """Make *container*, and before it those that it lies in, as far as they are missing; "" is the root."""
    parts = container.split("/") if container else []
    for depth in range(1, len(parts) + 1):
        service.create_container("/".join(parts[:depth]))
