"""The page that workers count in, and what is told of it."""

import os
from itertools import product

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from strongroom.storage_service.meter import (
    METHODS,
    OUTCOMES,
    PLACES,
    PROXY,
    STORAGE,
    Face,
    Level,
    Meter,
    Refused,
    Unknown,
)
from strongroom.storage_service.metrics import OWN, written

FACES = pytest.mark.parametrize("face", [STORAGE, PROXY], ids=lambda face: face.name)


def one(meter: Meter, path: bytes, method: bytes = b"GET", status: int = 200) -> None:
    """Count one request from its beginning to its end."""
    meter.end(path, method, method == b"HEAD", status, meter.begin())


def samples(page: bytes) -> int:
    return sum(len(family.samples) for family in parsed(page.decode()))


def test_what_a_forked_worker_counts_is_added_to_what_others_do() -> None:
    """Each counts for itself in the one page; when one was killed, its counts stay and what it had under way goes."""
    meter = Meter(STORAGE)
    child = os.fork()
    if child == 0:
        meter.sit(7)
        for _ in range(3):
            one(meter, b"/secrets/a/b")
        meter.connected(5)
        meter.begin()
        os._exit(0)
    os.waitpid(child, 0)
    meter.sit(8)
    one(meter, b"/secrets/c/d")
    meter.connected(2)
    before = meter.counts()
    meter.leave(7)
    after = meter.counts()

    assert dict(before.requests) == dict(after.requests) == {("secrets", "GET", "2xx"): 4}
    assert dict(before.levels) == {Level.WORKERS: 2, Level.CONNECTIONS: 7, Level.IN_FLIGHT: 1}
    assert dict(after.levels) == {Level.WORKERS: 1, Level.CONNECTIONS: 2, Level.IN_FLIGHT: 0}
    assert sum(before.seconds["secrets"][0]) == 4 and before.seconds["secrets"][1] > 0


def test_a_worker_goes_on_from_the_counts_of_the_one_whose_place_it_has() -> None:
    """Counts never go down: the next of a place adds to what is there."""
    meter = Meter(PROXY)
    for number in (3, 3 + PLACES):
        meter.sit(number)
        one(meter, b"/livez")
        meter.refuse(Refused.LATE)
        meter.turn_away(Unknown.WRONG)
        meter.leave(number)
    counts = meter.counts()

    assert (counts.requests["health", "GET", "2xx"], counts.refused[Refused.LATE], counts.unknown[Unknown.WRONG]) == (
        *(2, 2, 2),
    )


@pytest.mark.parametrize(
    ("face", "path", "route"),
    [
        (STORAGE, b"/secrets", "secrets"),
        (STORAGE, b"/secrets/box/key", "secrets"),
        (STORAGE, b"/storage/get", "records"),
        (STORAGE, b"/bulk/commit", "bulk"),
        (STORAGE, b"/keyring/unlock", "keyring"),
        (STORAGE, b"/apikeys/ci", "apikeys"),
        (STORAGE, b"/access/users/ann", "access"),
        (STORAGE, b"/metrics", "health"),
        (STORAGE, b"/", "other"),
        (STORAGE, b"", "other"),
        (STORAGE, b"/secretsx", "other"),
        (PROXY, b"/api/v0/secrets/box/key", "secrets"),
        (PROXY, b"/api/v0/host/10.0.0.7/creds", "models"),
        (PROXY, b"/api/v0/clusters/", "models"),
        (PROXY, b"/readyz", "health"),
        (PROXY, b"/api/v0/readyz", "other"),
        (PROXY, b"/secrets/box/key", "other"),
        (PROXY, b"/hosts", "other"),
        (PROXY, b"/api/v0/", "other"),
        (PROXY, b"*", "other"),
    ],
)
def test_every_path_is_of_one_class(face: Face, path: bytes, route: str) -> None:
    """What is served has its class by its first word, where the face serves it; all the rest is one class."""
    assert face.routes[face.place_of(path)] == route


@FACES
def test_requests_are_told_apart_by_what_they_were_and_how_they_ended(face: Face) -> None:
    """HEAD is itself, a method that nobody knows is another, and what got no answer has no status."""
    meter = Meter(face)
    one(meter, b"/livez", b"HEAD")
    one(meter, b"/livez", b"BREW", 501)
    one(meter, b"/livez", b"PUT", 0)

    assert dict(meter.counts().requests) == {
        ("health", "HEAD", "2xx"): 1,
        ("health", "other", "5xx"): 1,
        ("health", "PUT", "none"): 1,
    }


def test_all_that_can_ever_be_told_is_less_than_a_thousand_series() -> None:
    """With every combination counted, and every metric there with all labels that it may have, on both faces."""
    labels = {"state": 6, "check": 3, "file": 2, "health": 2, "generation": 2}
    most = 0
    for face in (STORAGE, PROXY):
        meter = Meter(face)
        paths = {face.routes[face.place_of(path)]: path for path in PATHS}
        assert set(paths) == set(face.routes)
        for path, method, status in product(paths.values(), METHODS, range(0, 600, 100)):
            one(meter, path, method.encode(), status)
        told: dict[str, dict[tuple[str, ...], float]] = {
            each.name: {tuple(str(n) for _ in each.labels): 1.0 for n in range(labels[each.labels[0]])}
            if each.labels
            else {(): 1.0}
            for each in OWN[face.name]
        }
        page = written(meter, told)
        assert page.count(b"requests_total{") == len(face.routes) * len(METHODS) * len(OUTCOMES)
        most += samples(page)

    assert 500 < most < 1000


@FACES
def test_strangers_make_no_series(face: Face) -> None:
    """Five thousand strange paths with strange methods are one class of each, and nothing of them is told."""
    meter = Meter(face)
    for number in range(5000):
        one(meter, b"/canary%d/%d" % (number, number), b"CANARY%d" % number, 404)
    page = written(meter, {})

    assert dict(meter.counts().requests) == {("other", "other", "4xx"): 5000}
    assert b"anary" not in page.lower()
    assert samples(page) < 200


PATHS = (
    *(b"/secrets/a", b"/storage/get", b"/bulk", b"/keyring", b"/apikeys", b"/access/users/", b"/livez", b"/nothing"),
    *(b"/api/v0/secrets/a", b"/api/v0/hosts"),
)
