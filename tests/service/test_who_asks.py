"""Two ways to know a caller at once, at the service's socket: the process at the other end, and an API id and key."""

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.config import AuthenticatorSettings, ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from tests.in_process import inside
from tests.raw_http import Message, request

BY_KEY: Final = AuthenticatorSettings(handler="SimpleAuthKeys")
BY_PROCESS: Final = AuthenticatorSettings(
    handler="SimpleCredsAuth", options={"uid": str(os.getuid()), "gid": "-1", "proxies": ""}
)
BY_ANOTHER: Final = AuthenticatorSettings(
    handler="SimpleCredsAuth", options={"uid": str(os.getuid() + 1), "proxies": ""}
)

ID, KEY = "CUSTODIA_AUTH_ID: own", "CUSTODIA_AUTH_KEY: own-key"
PAIR: Final = (ID, KEY)

Ask = Callable[..., AbstractAsyncContextManager[Message]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """What asks a service with such authenticators who asks, in fields of the head."""

    @asynccontextmanager
    async def asked(authenticators: Sequence[AuthenticatorSettings], *lines: str) -> AsyncIterator[Message]:
        settings = ServiceSettings(
            socket=tmp_path / "socket",
            audit_log=tmp_path / "audit.log",
            root_key=tmp_path / "secrets.key",
            store="memory:",
            authenticators=tuple(authenticators),
            api_id="own",
            api_key=Secret("own-key"),
        )
        shared = SharedRoot()
        app = StorageApp(settings, shared)
        await app.open()
        async with inside(app) as served:
            yield await served.ask(request("GET", "/whoami", *lines))
        await app.close()
        shared.close()

    return asked


def _who(answer: Message) -> str | int:
    """Return the principal that an answer tells, or its status where it tells none."""
    return str(json.loads(answer.body)["principal"]) if answer.status == 200 else answer.status


PROCESS: Final = f"service:{os.getuid()}"


@pytest.mark.parametrize(
    ("authenticators", "who"),
    [
        pytest.param([BY_PROCESS, BY_KEY], "apikey:own", id="the key last"),
        pytest.param([BY_KEY, BY_PROCESS], PROCESS, id="the process last"),
        pytest.param([BY_KEY], "apikey:own", id="the key alone"),
        pytest.param([BY_PROCESS], PROCESS, id="the process alone"),
        pytest.param([BY_ANOTHER, BY_KEY], 403, id="another process, and a key"),
        pytest.param([BY_KEY, BY_ANOTHER], 403, id="a key, and another process"),
    ],
)
async def test_the_last_to_know(ask: Ask, authenticators: list[AuthenticatorSettings], who: str | int) -> None:
    """Of two that both say who asks the last one counts, so that an API id overrides the process; a no ends it."""
    async with ask(authenticators, *PAIR) as answer:
        assert _who(answer) == who


PAIRS: Final = {
    "the id alone": ([ID], 403),
    "the key alone": ([KEY], 403),
    "an empty key": ([ID, "CUSTODIA_AUTH_KEY: "], 403),
    "an empty id": (["CUSTODIA_AUTH_ID: ", KEY], 403),
    "both empty": (["CUSTODIA_AUTH_ID: ", "CUSTODIA_AUTH_KEY: "], 403),
    "another id, and no key": (["CUSTODIA_AUTH_ID: nobody"], 403),
    "another id, and a key": (["CUSTODIA_AUTH_ID: nobody", KEY], 403),
    "a wrong key": ([ID, "CUSTODIA_AUTH_KEY: wrong"], 403),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "authenticators",
    [
        pytest.param([BY_PROCESS, BY_KEY], id="the key last"),
        pytest.param([BY_KEY, BY_PROCESS], id="the process last"),
        pytest.param([BY_KEY], id="the key alone"),
    ],
)
async def test_half_a_pair_is_not_none(ask: Ask, authenticators: list[AuthenticatorSettings], pair: str) -> None:
    """Whoever shows half a credential, or a wrong one, is refused, though the process would have been let in."""
    lines, status = PAIRS[pair]
    async with ask(authenticators, *lines) as answer:
        assert _who(answer) == status


@pytest.mark.parametrize(
    ("authenticators", "who"), [([BY_PROCESS, BY_KEY], PROCESS), ([BY_KEY, BY_PROCESS], PROCESS), ([BY_KEY], 401)]
)
async def test_no_pair_is_none(ask: Ask, authenticators: list[AuthenticatorSettings], who: str | int) -> None:
    """Whoever shows no credential is the process at the other end, where that is asked; or nobody."""
    async with ask(authenticators) as answer:
        assert _who(answer) == who


MARK: Final = "Forwarded: for=192.0.2.7;proto=http"
BEHIND_US: Final = AuthenticatorSettings(
    handler="SimpleCredsAuth", options={"uid": str(os.getuid() + 1), "proxies": str(os.getuid())}
)


@pytest.mark.parametrize(
    ("authenticators", "lines", "who"),
    [
        pytest.param([BY_ANOTHER, BY_KEY], (*PAIR, MARK), 403, id="another process, with a key"),
        pytest.param([BY_ANOTHER], (MARK,), 403, id="another process"),
        pytest.param([BY_PROCESS], (MARK,), 401, id="the process"),
        pytest.param([BY_PROCESS, BY_KEY], (*PAIR, MARK), "apikey:own", id="the process, with a key"),
        pytest.param([BEHIND_US, BY_KEY], (*PAIR, MARK), "apikey:own", id="the proxy, for who has a key"),
        pytest.param([BEHIND_US, BY_KEY], (MARK,), 401, id="the proxy, for who has none"),
        pytest.param([BEHIND_US, BY_KEY], PAIR, 403, id="the proxy, for itself"),
    ],
)
async def test_the_mark_of_a_proxy_opens_nothing(
    ask: Ask, authenticators: list[AuthenticatorSettings], lines: tuple[str, ...], who: str | int
) -> None:
    """Of a forwarded request the process says nothing; who only says that he forwards is refused as without that."""
    async with ask(authenticators, *lines) as answer:
        assert _who(answer) == who


def test_a_principal_at_an_address_is_the_same_but_for_that() -> None:
    """Nothing of who asks is lost when it is said from where, whatever a principal has."""
    who = Principal(
        "user:ann",
        ("/secrets",),
        frozenset((Action.GET,)),
        frozenset(("ops",)),
        True,
        True,
        ("/b",),
        "c",
        "192.0.2.1",
        7.0,
    )
    unlike = [each.name for each in fields(who) if getattr(who, each.name) != each.default]

    assert unlike == [each.name for each in fields(who)]
    assert who.at("192.0.2.2") == replace(who, address="192.0.2.2")
