"""The containers at the top, found without going through what lies in them."""

from collections.abc import Sequence

import pytest

from strongroom.storage_service.backends.base import MAX_PAGE, Page, Put
from strongroom.storage_service.backends.memory import MemoryBackend
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
