"""Rules in the running product: at once on every worker, over the socket and the proxy, by command and by hand."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest

from strongroom.models.access import Right, Rule
from strongroom.storage_service import wire
from strongroom.storage_service.client import NewCredential, StorageClient
from strongroom.storage_service.client import login as logging_in
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.errors import Changed, Exists, InUse, Invalid
from strongroom.storage_service.wire import login
from tests.access.ssh_holders import generated
from tests.deploy.running import Done, Up, eventually, strongroom, up

TIMES: Final = 5  # that a rule is put and removed
EACH: Final = 16  # connections, new ones, that ask after each


@dataclass(frozen=True)
class Rig:
    """A running service of two workers, and ann's token."""

    running: Up
    token: str

    def asks(self, method: str, path: str, *, proxy: bool = False, **more: object) -> httpx.Response:
        """Ask as ann, over a connection of its own."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.sends(method, path, headers, proxy=proxy, **more)

    def sends(
        self, method: str, path: str, headers: dict[str, str], *, proxy: bool = False, **more: object
    ) -> httpx.Response:
        with self.client(proxy=proxy) as client:
            return client.request(method, (wire.API_PATH if proxy else "") + path, headers=headers, **more)  # type: ignore[arg-type]

    def client(self, *, proxy: bool) -> httpx.Client:
        if proxy:
            return httpx.Client(base_url=self.running.url, timeout=15)
        transport = httpx.HTTPTransport(uds=str(self.running.socket))
        return httpx.Client(transport=transport, base_url="http://socket", timeout=15)

    def command(self, *words: object, stdin: bytes = b"") -> Done:
        return strongroom("--home", self.running.home, *words, stdin=stdin)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One service for this page; ann logs in with a key of ssh-keygen's."""
    folder = tmp_path_factory.mktemp("rules")
    home = folder / "home"
    home.mkdir(mode=0o700)
    with up(home, "--workers", "2") as running:
        key = FileKey.read(generated(folder, "ed25519"))
        with StorageClient.from_home(home) as service:
            for name in ("box", "other"):
                service.create_container(name)
                service.set_secret(name, "a", "value")
            service.add_principal(
                "user:ann", [NewCredential("access-key", (folder / "id_ed25519.pub").read_text(), "laptop")]
            )
            service.add_group("web")
            service.add_member("web", "user:ann")
        rig = Rig(running, "")
        question = logging_in.asked("user:ann", f"unix:{running.socket}")
        said = rig.sends("POST", login.CHALLENGE_PATH, {}, proxy=True, content=msgspec.json.encode(question))
        challenge = login.Challenge(**said.json())
        answer = logging_in.answer(challenge, question, key)
        token = rig.sends("POST", login.LOGIN_PATH, {}, proxy=True, content=msgspec.json.encode(answer)).json()["token"]
        yield Rig(running, token)


@pytest.fixture
def service(rig: Rig) -> Iterator[StorageClient]:
    """The service's own client; there are no rules when a test begins."""
    with StorageClient.from_home(rig.running.home) as client:
        client.import_rules("rules: {}")
        yield client


READS: Final = Rule(
    effect="allow", subjects=("group:web",), actions=(Right.READ, Right.LIST), names=("secrets/box/**",)
)
SHUT: Final = Rule(effect="deny", subjects=("*",), actions=(Right.READ,), names=("secrets/box/a",))


def test_a_change_holds_at_once_on_every_worker(rig: Rig, service: StorageClient) -> None:
    """A request that begins after a rule was put or removed is decided by it, whichever worker it comes to."""
    wrong = []
    for _ in range(TIMES):
        service.put_rule("reads", READS)
        wrong += [answer != 200 for answer in asked_of_all(rig)]
        service.put_rule("shut", SHUT)
        wrong += [answer != 403 for answer in asked_of_all(rig)]
        service.remove_rule("shut")
        service.import_rules("rules: {}")
        wrong += [answer != 403 for answer in asked_of_all(rig)]
    assert (sum(wrong), len(wrong)) == (0, TIMES * 3 * EACH)


def asked_of_all(rig: Rig) -> list[int]:
    """Return what is answered over connections that are all open at once, so that no worker has them all."""
    headers = {"Authorization": f"Bearer {rig.token}"}
    with ExitStack() as stack:
        clients = [stack.enter_context(rig.client(proxy=False)) for _ in range(EACH)]
        return [client.get("/secrets/box/a", headers=headers).status_code for client in clients]


@pytest.mark.parametrize("proxy", [False, True], ids=["socket", "proxy"])
def test_somebody_learns_why(rig: Rig, service: StorageClient, proxy: bool) -> None:
    """Whoever is refused is told by which rule of his, by what he asks and by the id of the request; no more."""
    service.put_rule("reads", READS)
    service.put_rule("shut", SHUT)
    service.put_rule("others", Rule(effect="allow", subjects=("user:eve",), actions=(Right.READ,), names=("**",)))
    refused = rig.asks("GET", "/secrets/box/a", proxy=proxy)
    assert refused.status_code == 403

    question = {"action": "get", "name": "secrets/box/a"}
    said = rig.asks("POST", "/access/rules/-/explain", proxy=proxy, json=question)
    place = f"/access/rules/-/cases/{refused.headers['x-request-id']}"
    eventually(lambda: rig.asks("GET", place, proxy=proxy).status_code == 200)  # refusals are counted for a second
    case = rig.asks("GET", place, proxy=proxy)

    assert said.status_code == 200
    assert [each["rule"] for each in said.json()["matched"]] == ["reads", "shut"]
    assert said.json()["allowed"] is False
    assert list(said.json()["remedy"]["denies"]) == ["shut"]
    (found,) = case.json()
    assert (found["decision"], found["rules"], found["groups"]) == ("denied", ["reads", "shut"], ["web"])
    assert b"others" not in said.content + case.content
    for answer in (
        rig.asks("GET", "/access/rules/", proxy=proxy),
        rig.asks("GET", "/access/rules/reads", proxy=proxy),
        rig.asks("GET", "/access/rules/-/document", proxy=proxy),
        rig.asks("PUT", "/access/rules/-/document", proxy=proxy, content=b"rules: {}"),
        rig.asks("POST", "/access/rules/-/diff", proxy=proxy, content=b"rules: {}"),
        rig.asks("POST", "/access/rules/-/try", proxy=proxy, content=b"rules: {}"),
        rig.asks("POST", "/access/rules/-/who-can", proxy=proxy, json=question),
        rig.asks("POST", "/access/rules/-/explain", proxy=proxy, json={**question, "principal": "user:eve"}),
        rig.asks("DELETE", "/access/rules/reads", proxy=proxy),
    ):
        assert answer.status_code == 403
    assert {each.name for each in service.list_rules().rules} == {"reads", "shut", "others"}


def test_the_client_puts_and_tells(service: StorageClient) -> None:
    """Each operation of the client, over the socket, does what its page says."""
    tag = service.put_rule("reads", READS, etag=wire.NEW)
    with pytest.raises(Exists):
        service.put_rule("reads", SHUT, etag=wire.NEW)
    with pytest.raises(Changed):
        service.put_rule("reads", SHUT, etag=f'"{"0" * 32}"')
    assert service.get_rule("reads").etag == tag
    document = service.export_rules()
    changed = document.text.replace("box", "other")
    found = service.diff_rules(changed)
    assert (found.etag, list(found.changed)) == (document.etag, ["reads"])
    service.put_rule("shut", SHUT)
    with pytest.raises(Changed):
        service.import_rules(changed, etag=document.etag)
    assert service.import_rules(changed).removed == ["shut"]
    assert [each.principal for each in service.who_can("get", "secrets/other/a")] == ["user:ann"]
    assert [each.names for each in service.what_can("user:ann").allowed] == ["secrets/other/**"]
    assert service.explain("get", "secrets/other/a", principal="user:ann").allowed
    with pytest.raises(Invalid) as caught:
        service.diff_rules("rules:\n  a: {}\n  a: {}\n")
    assert len(caught.value.faults) > 1
    service.remove_rule("reads")
    assert service.export_rules().text == "rules: {}\n"


def test_the_commands(rig: Rig, service: StorageClient, tmp_path: Path) -> None:
    """What is typed puts, shows, compares, brings in and removes rules; JSON says what the tables do."""
    added = rig.command("rule", "add", "reads", "allow", "group:web", "read,list", "secrets/box/**", "--note", "web")
    assert (added.code, added.err) == (0, "")
    assert rig.command("rule", "add", "reads", "deny", "*", "read", "a").code == 5
    assert rig.command("rule", "add", "reads", "deny", "*", "frobnicate", "a").code == 1
    assert rig.command("rule", "add", "reads", "deny", "nobody", "read", "a").code == 1
    (listed,) = rig.command("rule", "ls", "--json").json["rules"]
    assert rig.command("rule", "show", "reads", "--json").json == listed
    assert (listed["subjects"], listed["note"]) == (["group:web"], "web")
    assert "reads" in rig.command("rule", "ls").out
    file = tmp_path / "rules.yaml"
    file.write_text(rig.command("rule", "export").out)
    assert rig.command("rule", "diff", file).out == "nothing would change\n"
    assert rig.command("rule", "import", file).out == "the rules are these already\n"
    file.write_text(file.read_text().replace("reads:", "reader:"))
    assert rig.command("rule", "diff", file).out == "+ reader\n- reads\n"
    assert rig.command("rule", "import", file).code == 1  # nobody can be asked
    assert rig.command("rule", "import", file, "--yes").code == 0
    assert rig.command("rule", "import", "-", "--yes", "--json", stdin=file.read_bytes()).json["added"] == []
    assert [each["principal"] for each in rig.command("rule", "who-can", "get", "secrets/box/a", "--json").json["principals"]] == ["user:ann"]  # noqa: E501  # fmt: skip
    assert "secrets/box/**" in rig.command("rule", "what-can", "user:ann").out
    told = rig.command("rule", "explain", "user:ann", "get", "secrets/other/a")
    assert "to allow it: strongroom rule add RULE allow user:ann read secrets/other/a" in told.out
    assert rig.command("rule", "explain", "get").code == 1
    assert rig.command("rule", "explain", "user:nobody", "get", "a").code == 4
    assert rig.command("rule", "rm", "reader", "--yes").code == 0
    assert rig.command("rule", "show", "reader").code == 4
    wrong = rig.command("rule", "diff", "-", stdin=b"rules:\n  a: {effect: maybe}\n  b: 3\n")
    assert wrong.code == 2
    assert "line 2, rule a: effect is allow or deny" in wrong.err
    assert "line 3, rule b:" in wrong.err


def test_a_trial_ends_with_a_code_of_its_own(rig: Rig, service: StorageClient, tmp_path: Path) -> None:
    """Rules that would decide something on record otherwise end the command with 7; the same rules with 0."""
    service.put_rule("reads", READS)
    assert rig.asks("GET", "/secrets/box/a").status_code == 200
    refused = rig.asks("GET", "/secrets/trial/a")  # a name of its own: what others were refused is counted
    file = tmp_path / "rules.yaml"
    file.write_text(service.export_rules().text.replace("box", "trial"))

    tried = rig.command("rule", "try", file, "--since", "1h", "--json")
    same = rig.command("rule", "explain", "--case", refused.headers["x-request-id"])

    assert tried.code == 7
    denied = {(each["principal"], each["name"]) for each in tried.json["denied"]}
    allowed = {(each["principal"], each["name"]) for each in tried.json["allowed"]}
    assert ("user:ann", "secrets/box/a") in denied
    assert ("user:ann", "secrets/trial/a") in allowed
    assert tried.json["complete"]
    table = rig.command("rule", "try", file)
    assert (table.code, "would newly be denied:" in table.out) == (7, True)
    assert "denied" in same.out
    assert rig.command("rule", "try", file, "--since", "1ms", "--json").json["tried"] == 0
    assert rig.command("rule", "try", file, "--since", "soon").code == 2


def test_the_last_way_in_stays(tmp_path: Path) -> None:
    """With an administrator there, no import and no removal takes the right to mend rules from all of them."""
    generated(tmp_path, "p256")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with up(home), StorageClient.from_home(home) as service:
        key = NewCredential("access-key", (tmp_path / "id_p256.pub").read_text(), "laptop")
        service.add_principal("user:root", [key], admin=True)
        shut = Rule(effect="deny", subjects=("*",), actions=(Right.ACCESS,), names=("**",))
        for refused in (
            lambda: service.import_rules("rules: {}"),
            lambda: service.remove_rule("administrators"),
            lambda: service.put_rule("z", shut),
        ):
            with pytest.raises(InUse):
                refused()
        assert [each.name for each in service.list_rules().rules] == ["administrators"]
