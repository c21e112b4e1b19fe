"""The containers at the top, found without going through what lies in them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.backends.base import MAX_PAGE, Page, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot, build
from strongroom.storage_service.config import AuthorizerSettings, ServiceSettings
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.services.secrets import ROOT, Containers


class Pages(MemoryBackend):
    """A store that counts the pages that it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Count what is given."""
        self.given += 1
        return await super().list(prefix, after, limit)


async def listed(store: Pages, names: Sequence[str]) -> list[str]:
    """Return the containers of a *store* that holds *names*."""
    await store.open()
    wanted = [f"{ROOT}{name}" for name in names]
    for start in range(0, len(wanted), 100):
        await store.commit([Put(name, b"") for name in wanted[start : start + 100]])
    await store.commit([Put("system/keyring", b""), Put("hosts/a", b"")])
    containers = Containers(store, await store.list(ROOT))
    return [name async for page in containers for name in page]


HELD: dict[str, Sequence[str]] = {
    "nothing": (),
    "an empty one": ("db/",),
    "some, with what is in them": ("a/", "a/k", "b/", "b/c/", "b/c/d/", "b/c/d/k", "c/"),
    "names that sort about the slash": ("b-x/", "b.0/", "b/", "b/0", "b/z/", "b0/", "b0/k", "b00/", "ba/", "b_/"),
}


@pytest.mark.parametrize("story", HELD)
async def test_the_containers_that_lie_in_no_other_are_listed(story: str) -> None:
    """Each once, in the order of their names, and nothing of what is in them."""
    names = HELD[story]
    tops = [name for name in names if name.index("/") == len(name) - 1]
    assert await listed(Pages(), names) == sorted(tops, key=lambda name: f"{ROOT}{name}".encode())


async def test_a_large_container_is_passed_over() -> None:
    """However much is in one, the next is one page away; and many containers take several pages."""
    store = Pages()
    many = [f"m{number:04}/" for number in range(MAX_PAGE + 50)]
    within = [f"b/k{number:04}" for number in range(MAX_PAGE * 3)]

    assert await listed(store, ["a/", "b/", *within, "b0/", *many]) == ["a/", "b/", "b0/", *many]
    assert store.given == 3


async def test_who_has_a_container_of_its_own_is_told_that_one(tmp_path: Path) -> None:
    """Where the root stands for the caller's own container, a page of the root has that, and no other's."""
    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        authorizers=(AuthorizerSettings(handler="UserNameSpace", options={"path": "/secrets"}),),
    )
    shared = SharedRoot()
    parts = await build(settings, shared)
    ci, other = (Caller(Principal(f"apikey:{name}"), "request-1") for name in ("ci", "other"))
    for caller, name in ((ci, "ci"), (other, "other")):
        assert await parts.secrets.containers_page(caller, "", 9) == []
        await parts.secrets.put(caller, f"secrets/{name}/k", b"x", 0)

    assert await parts.secrets.containers_page(ci, "", 9) == ["ci/"]
    await parts.close()
    shared.close()
