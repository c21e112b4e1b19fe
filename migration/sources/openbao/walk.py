"""A tree, or a row, taken in its order, while several of the questions that come next are under way already."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

N = TypeVar("N")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Branch(Generic[N]):
    """What a visit finds that is no result: the nodes that come in its place."""

    nodes: tuple[N, ...]


@dataclass(frozen=True, slots=True)
class Leaf(Generic[R]):
    """What a visit finds: a result."""

    result: R


@dataclass(slots=True)
class _Step(Generic[N, R]):
    node: N
    visit: "asyncio.Task[Leaf[R] | Branch[N]] | None" = None


async def in_order(
    nodes: Iterable[N], visit: Callable[[N], Awaitable[Leaf[R] | Branch[N]]], ahead: int
) -> AsyncGenerator[R, None]:
    """Yield the result of every node, depth first, in the order of the nodes.

    Args:
        nodes: where to begin.
        visit: gives a node's result, or what comes in its place.
        ahead: visits under way at most, or done and not yet due. More only where a node that is due comes in between.
    """
    front: deque[_Step[N, R]] = deque(_Step(node) for node in nodes)
    begun = 0

    def begin(step: _Step[N, R]) -> "asyncio.Task[Leaf[R] | Branch[N]]":
        nonlocal begun
        if step.visit is None:
            step.visit = asyncio.ensure_future(_run(visit, step.node))
            begun += 1
        return step.visit

    try:
        while front:
            due = begin(front[0])
            for step in islice(front, ahead):
                if begun < ahead:
                    begin(step)
            found = await due
            front.popleft()
            begun -= 1
            if isinstance(found, Branch):
                front.extendleft(_Step(node) for node in reversed(found.nodes))
            else:
                yield found.result
    finally:
        under_way = [step.visit for step in front if step.visit is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _run(visit: Callable[[N], Awaitable[Leaf[R] | Branch[N]]], node: N) -> Leaf[R] | Branch[N]:
    return await visit(node)
