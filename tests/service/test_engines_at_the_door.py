"""Engines at the door: what one worker asks a real server, what comes of it for each verb, and what is recorded."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.models import Host
from strongroom.models.access import Rule
from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.rules import Rules
from strongroom.storage_service.backends.base import PRESENT
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build
from strongroom.storage_service.config import EngineSettings, ServiceSettings
from strongroom.storage_service.errors import ConfigurationError, Denied, KeyFileUnusable, NotFound, TooLarge
from strongroom.storage_service.services import door as door_module
from strongroom.storage_service.services.door import Caller
from tests.access.policy_server import Behave, PolicyServer, policy, saying, serving
from tests.audit_lines import audit_lines

VALUE: Final = b"v4lue-of-ann"
NAME: Final = "secrets/db/password"

OPERATOR: Final = Principal("apikey:operator", exempt=True)


def ann(request: str = "asked") -> Caller:
    """Return a user of whom no rule speaks."""
    return Caller(Principal("user:ann", ruled=True, groups=frozenset({"ops"})), request)


def key(*paths: str) -> Caller:
    """Return an API key with these paths."""
    return Caller(Principal("apikey:ci", paths or ("/",)), "asked")


class Site:
    """One worker with engines that ask one server."""

    def __init__(self, parts: Parts, policies: PolicyServer, audit: Path) -> None:
        self.parts = parts
        self.policies = policies
        self._audit = audit

    def lines(self) -> list[tuple[str, str, str, object]]:
        """What was recorded of what was asked for: action, name, decision, and what engines said."""
        lines = audit_lines(self._audit)
        return [
            (line["action"], line["name"], line["decision"], (line.get("decided") or {}).get("engines"))
            for line in lines
            if line["request"] == "asked"
        ]

    def rule(self, effect: Any, action: Any, *names: str, subject: str = "user:ann") -> None:
        """Let one rule hold, and no other."""
        rule = Rule(effect=effect, subjects=(subject,), actions=(action,), names=names)
        ruling = self.parts.door._ruling
        assert ruling is not None
        ruling._rules = Rules({"one": rule})

    def inputs(self) -> list[tuple[str, str, str]]:
        """What the server was asked."""
        said = [asked.input for asked in self.policies.asked]
        return [(each["subject"], each["action"], each["resource"]) for each in said]


@asynccontextmanager
async def site(tmp_path: Path, behave: Behave, *stances: str, **options: str) -> AsyncIterator[Site]:
    """Give a worker with an engine of each of *stances*, ``e0`` and so on."""
    async with serving(behave) as policies:
        settings = ServiceSettings(
            socket=tmp_path / "socket",
            audit_log=tmp_path / "audit.log",
            root_key=tmp_path / "secrets.key",
            store="memory:",
            api_id="own",
            api_key=Secret("own-key"),
            engines=tuple(
                EngineSettings(name=f"e{i}", handler="Opa", stance=stance, options={"url": policies.url, **options})
                for i, stance in enumerate(stances)
            ),
        )
        shared = SharedRoot()
        parts = await build(settings, shared)
        operator = Caller(OPERATOR, "made")
        await parts.secrets.create_container(operator, "secrets/db/")
        await parts.secrets.create_container(operator, "secrets/web/")
        for name in (NAME, "secrets/db/other", "secrets/web/cert"):
            await parts.secrets.put(operator, name, VALUE, 0)
        assert not policies.asked
        try:
            yield Site(parts, policies, settings.audit_log)
        finally:
            await parts.close()
            shared.close()


def only(*wanted: tuple[str, str]) -> Behave:
    """Return a policy that allows these (action, resource) and nothing else."""
    return policy(lambda asked: (asked["action"], asked["resource"]) in wanted)


READ: Final = ("secrets.read", "secrets:db/password")
BROKEN: Final = saying(b"no", "500 Internal Server Error")


async def test_may_allow_gives_what_no_rule_gives(tmp_path: Path) -> None:
    """A user of whom no rule speaks reads what the engine allows, and nothing else; the record says what it said."""
    async with site(tmp_path, only(READ), "may-allow") as here:
        assert (await here.parts.secrets.get(ann(), NAME)).value == VALUE
        with pytest.raises(Denied):
            await here.parts.secrets.get(ann(), "secrets/db/other")
        await here.parts.door.close()
        assert here.lines() == [
            ("get", NAME, "allowed", {"e0": "allowed"}),
            ("get", "secrets/db/other", "denied", {"e0": "denied"}),
        ]
        assert here.inputs() == [("user:ann", *READ), ("user:ann", "secrets.read", "secrets:db/other")]


async def test_may_allow_that_fails_is_silence(tmp_path: Path) -> None:
    """A broken engine takes nothing from who is allowed by a rule, and gives nothing to who is not."""
    async with site(tmp_path, BROKEN, "may-allow") as here:
        with pytest.raises(Denied):
            await here.parts.secrets.get(ann(), NAME)
        here.rule("allow", "read", NAME)
        assert (await here.parts.secrets.get(ann(), NAME)).value == VALUE
        await here.parts.door.close()
        assert here.lines() == [("get", NAME, "denied", {"e0": "failed"}), ("get", NAME, "allowed", None)]


async def test_must_allow_takes_what_others_give(tmp_path: Path) -> None:
    """An API key that reaches a name still needs the engine's yes; its no and its failure are recorded refusals."""
    async with site(tmp_path, only(READ), "must-allow") as here:
        assert (await here.parts.secrets.get(key(), NAME)).value == VALUE
        with pytest.raises(Denied):
            await here.parts.secrets.delete(key(), NAME)
        here.policies.behave = BROKEN
        with pytest.raises(Denied):
            await here.parts.secrets.get(key(), NAME)
        here.policies.behave = only(READ)
        assert (await here.parts.secrets.get(key(), NAME)).value == VALUE
        await here.parts.door.close()
        assert sorted(here.lines(), key=str) == sorted(
            [
                ("get", NAME, "allowed", {"e0": "allowed"}),
                ("delete", NAME, "denied", {"e0": "denied"}),
                ("get", NAME, "denied", {"e0": "failed"}),
                ("get", NAME, "allowed", {"e0": "allowed"}),
            ],
            key=str,
        )


async def test_must_allow_gives_nothing(tmp_path: Path) -> None:
    """Its yes is not the one that is needed, and it is not even asked."""
    async with site(tmp_path, saying({"result": True}), "must-allow") as here:
        with pytest.raises(Denied):
            await here.parts.secrets.get(ann(), NAME)
        assert not here.policies.asked


async def test_what_is_denied_is_not_asked_about(tmp_path: Path) -> None:
    """A rule that denies and a key's own reach are stronger than any engine's yes."""
    async with site(tmp_path, saying({"result": True}), "may-allow", "must-allow") as here:
        here.rule("deny", "read", NAME)
        with pytest.raises(Denied):
            await here.parts.secrets.get(ann(), NAME)
        with pytest.raises(Denied):
            await here.parts.secrets.get(key("/secrets/web"), NAME)
        assert not here.policies.asked
        assert (await here.parts.secrets.get(ann(), "secrets/web/cert")).value == VALUE


async def test_the_own_key_is_not_asked_about(tmp_path: Path) -> None:
    """While every engine is down the service's own key does all, so that somebody can mend it."""
    async with site(tmp_path, BROKEN, "must-allow") as here:
        operator = Caller(OPERATOR, "asked")
        assert (await here.parts.secrets.get(operator, NAME)).value == VALUE
        assert await here.parts.secrets.list_container(operator, "secrets/db/") == ["other", "password"]
        assert not here.policies.asked


async def test_whom_the_proxy_acts_for_is_asked_about(tmp_path: Path) -> None:
    """A user whom the proxy alone knows is one of another kind than the service's user of the same name."""
    async with site(tmp_path, policy(lambda asked: asked["subject"] == "proxied:ann"), "must-allow") as here:
        for whom, allowed in (("user:ann", True), ("user:bo", False)):
            caller = Caller(OPERATOR, "asked", on_behalf_of=whom)
            if allowed:
                assert (await here.parts.secrets.get(caller, NAME)).value == VALUE
            else:
                with pytest.raises(Denied):
                    await here.parts.secrets.get(caller, NAME)
        assert [subject for subject, *_ in here.inputs()] == ["proxied:ann", "proxied:bo"]


async def test_a_batch_is_asked_about_name_by_name_and_given_whole_or_not(tmp_path: Path) -> None:
    """One name that an engine refuses refuses the batch; those that it allows are not given."""
    async with site(tmp_path, only(READ), "must-allow") as here:
        assert set(await here.parts.secrets.get_many(key(), [NAME])) == {NAME}
        with pytest.raises(Denied):
            await here.parts.secrets.get_many(key(), [NAME, "secrets/db/other"])
        await here.parts.door.close()
        assert ("get", "secrets/db/other", "denied", {"e0": "denied"}) in here.lines()


WRITES: Final[dict[str, tuple[Callable[[Parts, Caller], Any], str, str]]] = {
    "create": (
        lambda parts, who: parts.secrets.put(who, "secrets/db/new", b"n", 0),
        "secrets.create",
        "secrets:db/new",
    ),
    "modify": (lambda parts, who: parts.secrets.put(who, NAME, b"n", PRESENT), "secrets.modify", "secrets:db/password"),
    "delete": (lambda parts, who: parts.secrets.delete(who, NAME), "secrets.delete", "secrets:db/password"),
    "make a container": (
        lambda parts, who: parts.secrets.create_container(who, "secrets/new/"),
        "secrets.create",
        "secrets:new/",
    ),
    "save a host": (
        lambda parts, who: parts.records.save(who, [Host.new(address="h1")], [None]),
        "hosts.create",
        "hosts:h1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRITES)
async def test_writes_are_asked_about_before_they_are_done(tmp_path: Path, what: str) -> None:
    """Each has its word; refused it changes nothing, and allowed it is done."""
    do, action, resource = WRITES[what]
    async with site(tmp_path, saying({"result": False}), "must-allow") as here:
        with pytest.raises(Denied):
            await do(here.parts, key())
        asked = here.inputs()
        assert ("apikey:ci", action, resource) in asked
        here.policies.behave = policy(
            lambda asked: (
                (asked["action"], asked["resource"])
                in {(action, resource), (action.replace("create", "modify"), resource)}
            )
        )
        await do(here.parts, key())


async def test_lists_show_what_engines_let_be_seen(tmp_path: Path) -> None:
    """Of a key's container that is what it must allow; of a user's, what it may allow beyond the rules."""
    seen = only(("secrets.list", "secrets:db/"), ("secrets.list", "secrets:db/other"))
    async with site(tmp_path, seen, "must-allow") as here:
        assert await here.parts.secrets.list_container(key(), "secrets/db/") == ["other"]
        assert await here.parts.secrets.page(key(), "secrets/db/", "", 10) == ["other"]
        with pytest.raises(Denied):
            await here.parts.secrets.list_container(key(), "secrets/web/")
    async with site(tmp_path, seen, "may-allow") as here:
        assert await here.parts.secrets.list_container(ann(), "secrets/db/") == ["other"]
        with pytest.raises(Denied):
            await here.parts.secrets.list_container(ann(), "secrets/web/")
        here.rule("allow", "list", NAME)
        assert await here.parts.secrets.list_container(ann(), "secrets/db/") == ["other", "password"]
        here.rule("deny", "list", "secrets/db/other")
        assert await here.parts.secrets.list_container(ann(), "secrets/db/") == []


async def test_containers_at_the_top(tmp_path: Path) -> None:
    """The root shows the containers that engines let be listed; who may list none of them hears so."""
    wanted = ("secrets.list", "secrets:/"), ("secrets.list", "secrets:web/")
    async with site(tmp_path, only(*wanted), "must-allow") as here:
        assert await here.parts.secrets.containers_page(key(), "", 10) == ["web/"]
        here.policies.behave = saying({"result": False})
        with pytest.raises(Denied):
            await here.parts.secrets.containers_page(key(), "", 10)
    async with site(tmp_path, only(*wanted), "may-allow") as here:
        assert await here.parts.secrets.containers_page(ann(), "", 10) == ["web/"]
        here.policies.behave = BROKEN
        with pytest.raises(Denied):
            await here.parts.secrets.containers_page(ann(), "", 10)


async def test_a_list_with_its_records_takes_both_rights(tmp_path: Path) -> None:
    """Of hosts those are shown that an engine lets be listed and read."""

    def allows(asked: Mapping[str, str]) -> bool:
        return asked["action"] == "hosts.list" or asked["resource"] == "hosts:h2"

    async with site(tmp_path, policy(allows), "must-allow") as here:
        await here.parts.records.save(Caller(OPERATOR, "made"), [Host.new(address=f"h{i}") for i in (1, 2)], [None] * 2)
        page = await here.parts.records.list_records(key(), Host, None, 10)
        assert [each.record.key for each in page.records] == ["h2"]
        keys = await here.parts.records.list_record_keys(key(), Host, None, 10)
        assert keys.keys == ("h1", "h2")


async def test_no_request_asks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of more names than engines are asked about in a request is refused, and pages of it are given."""
    monkeypatch.setattr(door_module, "MOST_ASKED", 2)
    async with site(tmp_path, saying({"result": True}), "must-allow") as here:
        with pytest.raises(TooLarge, match="list in pages"):
            await here.parts.secrets.list_container(key(), "secrets/db/")
        assert await here.parts.secrets.page(key(), "secrets/db/", "", 1) == ["other"]
        assert await here.parts.secrets.page(key(), "secrets/db/", "other", 1) == ["password"]


async def test_before_a_body_is_read_who_would_be_refused_is(tmp_path: Path) -> None:
    """A user whom nobody allows is refused before he sends anything; whom an engine may allow, is let on unrecorded."""
    async with site(tmp_path, only(("secrets.create", "secrets:db/new")), "may-allow") as here:
        await here.parts.secrets.expect(ann(), Action.PUT, "secrets/db/new")
        await here.parts.secrets.expect_some(ann(), Action.GET)
        assert here.lines() == []
        with pytest.raises(Denied):
            await here.parts.secrets.expect(ann(), Action.PUT, NAME)
    (tmp_path / "other").mkdir()
    async with site(tmp_path / "other", saying({"result": True}), "must-allow") as here:
        with pytest.raises(Denied):
            await here.parts.secrets.expect_some(ann(), Action.GET)


async def test_no_value_is_in_a_question(tmp_path: Path) -> None:
    """To write and to read a secret tells an engine who, what and which, and nothing of the value or of a key."""
    async with site(tmp_path, saying({"result": True}), "must-allow", "may-allow") as here:
        await here.parts.secrets.put(key(), "secrets/db/new", VALUE, 0)
        await here.parts.secrets.get(key(), "secrets/db/new")
        assert [asked.body for asked in here.policies.asked] == [
            {"input": {"subject": "apikey:ci", "action": f"secrets.{right}", "resource": "secrets:db/new"}}
            for right in ("create", "read")
        ]


async def test_status_and_metrics_are_asked_about(tmp_path: Path) -> None:
    """Who may see the service's own status needs the engine's yes, too."""
    status = ("system.read", "system:status")
    async with site(tmp_path, only(status), "must-allow") as here:
        assert (await here.parts.health.status(key())).active_key
        await here.parts.telemetry.permit(key())
        here.policies.behave = saying({"result": False})
        assert not (await here.parts.health.status(key())).active_key
        with pytest.raises(Denied):
            await here.parts.telemetry.permit(key())


async def test_without_engines_nobody_is_asked(tmp_path: Path) -> None:
    """A service that has none decides as it always did, and records no word of them."""
    async with site(tmp_path, BROKEN) as here:
        assert here.parts.door._engines is None
        assert (await here.parts.secrets.get(key(), NAME)).value == VALUE
        with pytest.raises(NotFound):
            await here.parts.secrets.get(key(), "secrets/db/none")
        assert [said for *_, said in here.lines()] == [None] * len(here.lines())
        assert not here.policies.asked


async def test_a_token_comes_from_a_private_file(tmp_path: Path) -> None:
    """It goes to the engine in its field; a file that others may read, or that holds more than a token, is refused."""
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    file.chmod(0o600)
    async with site(tmp_path, saying({"result": True}), "must-allow", token_file=str(file)) as here:
        await here.parts.secrets.get(key(), NAME)
        assert here.policies.asked[0].fields["authorization"] == "Bearer t0ken"
    file.chmod(0o644)
    with pytest.raises(KeyFileUnusable, match="chmod 600"):
        async with site(tmp_path, BROKEN, "must-allow", token_file=str(file)):
            pass
    file.chmod(0o600)
    file.write_text("two lines\nof it")
    with pytest.raises(ConfigurationError, match="a token is one line"):
        async with site(tmp_path, BROKEN, "must-allow", token_file=str(file)):
            pass


def test_rights_of_every_place_have_a_word() -> None:
    """What a door asks about names a domain and one of the rights that rules have."""
    from strongroom.models.access import Right
    from strongroom.storage_service.access.engines.base import action_of
    from strongroom.storage_service.access.rules import rights_of

    said = {
        action_of(right, name)
        for action in Action
        for name in ("secrets/a/b", "system/keyring/lock", "system/journal/x", "system/access/users/ann", "hosts/h")
        for right in rights_of(action.value, name)
    }
    assert {each.partition(".")[2] for each in said} <= {right.value for right in Right}
    assert {"system.lock", "system.access", "system.migrate", "secrets.read", "hosts.create"} <= said
