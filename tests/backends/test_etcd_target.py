"""The URL of a store in etcd, and the table of what its failures mean."""

from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.etcd.failures import Kind, diagnose
from strongroom.storage_service.backends.etcd.target import PASSWORD_VARIABLE, Target, parse
from strongroom.storage_service.backends.url import split
from strongroom.storage_service.errors import ConfigurationError, Fate, TooLarge, Unavailable

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "options", "target"),
    [
        ("etcd://a:1", {}, Target(endpoints=("a:1",))),
        ("etcd://a", {}, Target(endpoints=("a:2379",))),
        ("etcd://a:1,b-2.example:2,[::1]:3", {}, Target(endpoints=("a:1", "b-2.example:2", "[::1]:3"))),
        ("etcd://a:1/", {}, Target(endpoints=("a:1",), prefix="/strongroom/")),
        ("etcd://a:1/x", {}, Target(endpoints=("a:1",), prefix="/x/")),
        ("etcd://a:1/x/y/", {}, Target(endpoints=("a:1",), prefix="/x/y/")),
        ("etcd://u:p@a:1", {}, Target(endpoints=("a:1",), user="u", password=Secret("p"))),
        ("etcd://u:p%40%2F@a:1,b:2", {}, Target(endpoints=("a:1", "b:2"), user="u", password=Secret("p@/"))),
        ("etcd://u@a:1", {"password": "p"}, Target(endpoints=("a:1",), user="u", password=Secret("p"))),
        ("etcd://u@a:1", {"password_file": "/p"}, Target(endpoints=("a:1",), user="u", password_file=Path("/p"))),
        ("etcd://a:1", {"cacert": "/c"}, Target(endpoints=("a:1",), cacert=Path("/c"))),
        (
            "etcd://a:1",
            {"cacert": "/c", "cert": "/d", "key": "/e", "timeout": "2.5"},
            Target(endpoints=("a:1",), cacert=Path("/c"), cert=Path("/d"), key=Path("/e"), timeout=2.5),
        ),
    ],
)
def test_a_url_is_read(url: str, options: dict[str, str], target: Target) -> None:
    """Endpoints, prefix, credentials and files come out of the URL and its options as documented."""
    assert parse(split(url), options, environ={}) == target


def test_a_password_comes_from_the_environment_last() -> None:
    """A named user's password is looked up in the environment where nothing else gives one, and only there."""
    environ = {PASSWORD_VARIABLE: SECRET}

    assert parse(split("etcd://u@a:1"), {}, environ).password == Secret(SECRET)
    assert parse(split("etcd://u:p@a:1"), {}, environ).password == Secret("p")
    assert parse(split("etcd://a:1"), {}, environ) == Target(endpoints=("a:1",))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"etcd:///{SECRET}", {}),
        (f"etcd://{SECRET}!", {}),
        (f"etcd://{SECRET}:99999", {}),
        (f"etcd://{SECRET}:1,", {}),
        (f"etcd://[{SECRET}]:1", {}),
        (f"etcd://a:1/{SECRET}/../x", {}),
        (f"etcd://a:1/{SECRET}%2e", {}),
        (f"etcd://a:1/#{SECRET}", {}),
        (f"etcd://a:1?{SECRET}=1", {}),
        (f"etcd://a:1?{SECRET}", {}),
        (f"etcd://a:1?cacert={SECRET}", {"cacert": SECRET}),
        ("etcd://a:1", {"unknown": SECRET}),
        ("etcd://a:1?cacert=", {}),
        ("etcd://a:1", {"cert": SECRET, "key": SECRET}),
        ("etcd://a:1", {"cacert": SECRET, "key": SECRET}),
        ("etcd://a:1", {"password": SECRET}),
        (f"etcd://:{SECRET}@a:1", {}),
        ("etcd://u@a:1", {}),
        (f"etcd://u:{SECRET}@a:1", {"password": SECRET}),
        (f"etcd://u:{SECRET}@a:1", {"password_file": SECRET}),
        ("etcd://a:1", {"timeout": SECRET}),
        ("etcd://a:1", {"timeout": "0"}),
        ("etcd://a:1", {"timeout": "nan"}),
        ("etcd://a:1", {"timeout": "inf"}),
    ],
)
def test_a_url_that_is_not_understood_is_refused(
    url: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not understood is a configuration error before anything is connected, and repeats none of it."""
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url, **options)

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_repr_names_the_place_and_no_credentials() -> None:
    """The repr of a backend tells its members and prefix, that of its target hides the password."""
    backend = open_backend(f"etcd://user:{SECRET}@a:1,b:2/x")

    assert repr(backend) == "<EtcdBackend a:1,b:2/x/>"
    assert SECRET not in repr(vars(backend))


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused", Kind.NOT_DONE),
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; CERTIFICATE_VERIFY_FAILED", Kind.UNTRUSTED),
        (StatusCode.UNAVAILABLE, "Stream removed (Unwrap failed (TSI_DATA_CORRUPTED))", Kind.LOST),
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", Kind.NOT_DONE),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", Kind.LOST),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Kind.LOST),
        (StatusCode.UNAVAILABLE, "etcdserver: server stopped", Kind.LOST),
        (StatusCode.UNAVAILABLE, "Socket closed", Kind.LOST),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Kind.LOST),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Kind.NOT_DONE),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Kind.FULL),
        (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 8)", Kind.TOO_LARGE),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Kind.TOO_LARGE),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", Kind.REFUSED),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Kind.LOGIN),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Kind.LOGIN),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Kind.COMPACTED),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Kind.REFUSED),
        (StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.KV", Kind.REFUSED),
        (StatusCode.UNKNOWN, "what nobody has heard of", Kind.LOST),
        (StatusCode.INTERNAL, None, Kind.LOST),
    ],
)
def test_a_failure_says_what_may_be_done(code: StatusCode, text: str | None, kind: Kind) -> None:
    """Each error is told by its text, then its code; one that is not known may have been applied."""
    failure = diagnose(AioRpcError(code, Metadata(), Metadata(), details=text))

    assert failure.kind is kind
    assert failure.fate is (Fate.UNKNOWN if kind in {Kind.LOST, Kind.FULL} else Fate.NOT_APPLIED)
    assert isinstance(failure.answer(), TooLarge if kind is Kind.TOO_LARGE else Unavailable)
