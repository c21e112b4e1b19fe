"""Whose address counts: the connection's, or what a counted number of proxies before ours has told."""

import pytest

from strongroom.http_proxy import certificate
from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.middleware import AuthenticationManager
from strongroom.http_proxy.request import client_of, forwarded, plain
from strongroom.storage_service.wire import http1
from tests.in_process import inside
from tests.raw_http import request


def asked(*told: str) -> http1.Request:
    """Return a request with these ``X-Forwarded-For``."""
    head = request("GET", "/api/v0/hosts", *(f"x-forwarded-for: {each}" for each in told))
    return http1.RequestReader().head(head)


@pytest.mark.parametrize(
    ("told", "trusted", "client"),
    [
        (["192.0.2.7"], 1, "192.0.2.7"),
        (["10.0.0.1, 192.0.2.7"], 1, "192.0.2.7"),  # what a client wrote stands on the left
        (["10.0.0.1", "192.0.2.7"], 1, "192.0.2.7"),
        (["192.0.2.7,10.0.0.1"], 2, "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7", "10.0.0.1"], 2, "192.0.2.7"),
        (["2001:db8::0007"], 1, "2001:db8::7"),
        (["::ffff:192.0.2.7"], 1, "192.0.2.7"),
        (["192.0.2.7"], 2, "unknown"),  # it did not come through all of them
        ([], 1, "unknown"),
        ([""], 1, "unknown"),
        (["192.0.2.7, "], 1, "unknown"),
        (["192.0.2.7:1234"], 1, "unknown"),
        (["[2001:db8::7]"], 1, "unknown"),
        (["example.net"], 1, "unknown"),
        (["192.0.2.7;proto=http"], 1, "unknown"),
        (["192.0.2.07"], 1, "unknown"),
    ],
)
def test_the_address_is_counted_from_the_right(told: list[str], trusted: int, client: str) -> None:
    """So many from the right, over all fields; where that is no address, nobody knows it."""
    assert client_of(asked(*told), trusted) == client


@pytest.mark.parametrize(
    ("client", "field"),
    [
        ("::ffff:192.0.2.7", "for=192.0.2.7;proto=http"),
        ("2001:db8::7", 'for="[2001:db8::7]";proto=http'),
        ("192.0.2.7", "for=192.0.2.7;proto=http"),
        ("", "for=unknown;proto=http"),
        ("unknown", "for=unknown;proto=http"),
    ],
)
def test_the_service_is_told_the_plain_address(client: str, field: str) -> None:
    """An IPv4 address within IPv6 is the IPv4 address, and who came over a socket has none."""
    assert forwarded(client, "http") == field
    assert (plain(client) or "unknown") in field


@pytest.mark.parametrize(("trusted", "client", "address"), [(0, "127.0.0.1", "here"), (1, "192.0.2.7", "192.0.2.7")])
async def test_nobody_else_is_believed(trusted: int, client: str, address: str) -> None:
    """Where no proxy is trusted the connection's address counts, for the record and for whose turn it is."""
    seen = []

    def behind(exchange: http1.Exchange, path: str, identity: Identity | None) -> None:
        seen.append((exchange.client, exchange.address))
        exchange.answer(200, ())

    door = AuthenticationManager(behind, [], trusted_proxies=trusted)
    async with inside(door) as served:
        await served.ask(request("GET", "/api/v0/secrets/", "x-forwarded-for: 10.0.0.1, 192.0.2.7"))
    assert seen == [(client, address)]


def test_what_is_no_certificate_tells_nothing() -> None:
    """Without one, or with what cannot be read, no line is written."""
    assert certificate.line(None) == b""
    assert certificate.line(b"garbage") == b""
