"""Logging in as people do it: a real agent and keys of ssh-keygen, through the proxy and on the socket."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy import kept_logins
from strongroom.deploy.kept_logins import KeptLogin
from strongroom.storage_service.access.tokens import Signer
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client import login as logins
from strongroom.storage_service.client.address import Address
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.errors import ConfigurationError, Denied, Invalid, NotAuthenticated
from tests.access.ssh_holders import add, agent, generated
from tests.at_terminal import AtTerminal
from tests.deploy.running import Done, Up, clean_environment, eventually, finished, spawn, strongroom, up

PASSPHRASE = "correct horse battery"


@dataclass
class Person:
    """Somebody with a home, keys and a runtime directory of their own."""

    folder: Path
    service: Up
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        """What their commands find."""
        said = {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder / "run"), **self.more}
        kept = clean_environment(**said)
        return {name: value for name, value in kept.items() if name != "SSH_AUTH_SOCK" or "SSH_AUTH_SOCK" in self.more}

    def types(self, *arguments: object, stdin: bytes = b"") -> Done:
        """Type a command."""
        return strongroom(*arguments, environ=self.environ, stdin=stdin)

    def asks(self, *arguments: object, stdin: bytes = b"") -> Done:
        """Type a command for the service behind its proxy."""
        return self.types("--url", self.service.url, *arguments, stdin=stdin)

    @property
    def files(self) -> list[Path]:
        """Where tokens are kept."""
        return sorted((self.folder / "run" / "strongroom").glob("*.json"))

    def held(self, service: str | None = None) -> KeptLogin:
        """Return the login that is kept."""
        wanted = service or Address(url=self.service.url).service
        texts = [json.loads(path.read_text()) for path in self.files]
        (found,) = [KeptLogin(**each) for each in texts if each["service"] == wanted]
        return found

    def expire(self) -> None:
        """Let what is kept be about to expire."""
        (path,) = self.files
        said = json.loads(path.read_text()) | {"expires": "2026-01-01T00:00:00Z"}
        path.write_text(json.dumps(said))


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """A service with a secret, behind its proxy."""
    folder = Path(tempfile.mkdtemp(prefix="sr"))
    with up(folder / "home") as service:
        with StorageClient.from_home(service.home) as own:
            own.create_container("db")
            own.set_secret("db", "password", "hunter2")
        yield service
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private keys, made by ssh-keygen: each is a person's own, whose name ends like its kind."""
    folder = tmp_path_factory.mktemp("keys")
    made = {kind: generated(folder, kind) for kind in ("ed25519", "rsa", "p256")}
    return made | {"locked": generated(folder, "ed25519", PASSPHRASE)}


@pytest.fixture(scope="module")
def people(running: Up, keys: dict[str, Path]) -> None:
    """A principal for each key."""
    for name, key in keys.items():
        done = strongroom("--home", running.home, "user", "add", f"u-{name}", "--key", key.with_suffix(".pub"))
        assert done.code == 0, done.err


@pytest.fixture
def ann(running: Up, people: None) -> Iterator[Person]:
    """Somebody whose keys are nowhere yet."""
    folder = Path(tempfile.mkdtemp(prefix="ann"))
    (folder / "run").mkdir(mode=0o700)
    (folder / ".ssh").mkdir(mode=0o700)
    yield Person(folder, running)
    shutil.rmtree(folder)


@pytest.fixture
def held(ann: Person) -> Iterator[str]:
    """Ann's agent, by its socket; it is empty."""
    with agent() as path:
        ann.more["SSH_AUTH_SOCK"] = path
        yield path


def test_an_agents_key_logs_in_and_every_command_is_the_persons(ann: Person, held: str, keys: dict[str, Path]) -> None:
    """The agent signs; what follows is the person's own, until logging out ends the token at the service, too."""
    add(held, keys["rsa"], keys["ed25519"])
    done = ann.asks("login", "--as", "u-ed25519", "--for", "5m", "--json")
    assert done.code == 0, done.err
    assert done.json["principal"] == "user:u-ed25519"
    assert done.json["key"].startswith("SHA256:")

    me = ann.asks("whoami", "--json").json
    assert (me["principal"], me["groups"], me["ruled"]) == ("user:u-ed25519", [], True)
    assert (me["expires"], me["credential"] is not None) == (ann.held().expires, True)
    shown = ann.asks("user", "show", "u-ed25519", "--json").json
    assert [each["id"] for each in shown["credentials"]] == [me["credential"]]

    def is_seen() -> bool:
        (own,) = strongroom("--home", ann.service.home, "user", "show", "u-ed25519", "--json").json["credentials"]
        return own["used"] is not None

    eventually(is_seen)  # it is written behind the answer
    assert ann.asks("secret", "get", "db/password").code == 6

    token = ann.held().token
    assert ann.asks("logout").code == 0
    assert not ann.files
    with StorageClient(url=ann.service.url, token=token) as late, pytest.raises(NotAuthenticated):
        late.whoami()
    assert ann.asks("whoami").code == 2
    assert ann.asks("logout", "--json").json == {"principal": None, "ended": False}


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "p256"])
def test_a_key_in_its_file_logs_in_on_the_socket(ann: Person, keys: dict[str, Path], kind: str) -> None:
    """Without an agent, the file that is named logs in; the token is of that one address."""
    socket = ("--socket", ann.service.socket)
    assert ann.types(*socket, "login", "--as", f"user:u-{kind}", "--key", keys[kind]).code == 0
    assert ann.types(*socket, "whoami", "--json").json["principal"] == f"user:u-{kind}"
    assert ann.held(f"unix:{ann.service.socket}").principal == f"user:u-{kind}"
    assert ann.asks("whoami").code == 2


def test_a_key_where_ssh_looks_needs_no_name(ann: Person, keys: dict[str, Path]) -> None:
    """Where nothing is said, the keys in ~/.ssh are tried, each in its turn."""
    for kind, name in (("rsa", "id_rsa"), ("p256", "id_ecdsa")):
        shutil.copy(keys[kind], ann.folder / ".ssh" / name)
    assert ann.asks("login", "--as", "u-rsa").code == 0
    assert ann.asks("whoami", "--json").json["principal"] == "user:u-rsa"


def test_a_passphrase_is_asked_for_and_not_shown(ann: Person, keys: dict[str, Path]) -> None:
    """At a terminal without echo, else a line of standard input; a wrong one opens nothing, and none of it is told."""
    command = ("login", "--as", "u-locked", "--key", keys["locked"])
    wrong = ann.asks(*command, stdin=b"wrong horse\n")
    assert (wrong.code, "horse" in wrong.err) == (6, False)
    assert ann.asks(*command, stdin=PASSPHRASE.encode() + b"\n").code == 0

    program = [sys.executable, "-m", "strongroom.deploy.cli", "--url", ann.service.url, *map(str, command)]
    with AtTerminal(program, ann.environ, ann.folder) as terminal:
        terminal.sees("Passphrase of")
        terminal.types(PASSPHRASE)
        terminal.sees("logged in as user:u-locked")
        assert PASSPHRASE not in terminal.screen


def test_the_public_half_names_a_key_of_the_agent(ann: Person, held: str, keys: dict[str, Path]) -> None:
    """A .pub file picks one of the agent's; one that it does not hold is told to be added."""
    add(held, keys["rsa"], keys["p256"])
    assert ann.asks("login", "--as", "u-p256", "--key", keys["p256"].with_suffix(".pub")).code == 0
    done = ann.asks("login", "--as", "u-ed25519", "--key", keys["ed25519"].with_suffix(".pub"))
    assert (done.code, "ssh-add" in done.err) == (6, True)


def test_no_more_than_six_keys_of_an_agent_are_tried(ann: Person, held: str, tmp_path: Path) -> None:
    """An agent with many keys does not make a stranger of its holder many times over."""
    for number in range(7):
        (tmp_path / str(number)).mkdir()
        add(held, generated(tmp_path / str(number), "ed25519"))
    done = ann.asks("login", "--as", "u-ed25519")
    assert (done.code, done.err.count("SHA256:")) == (6, 6)
    assert "SHA256" not in ann.asks("whoami").err


def test_a_login_is_renewed_without_a_word(ann: Person, held: str, keys: dict[str, Path]) -> None:
    """What has expired is replaced where the agent holds the key still; without the agent the person is told."""
    add(held, keys["ed25519"])
    assert ann.asks("login", "--as", "u-ed25519", "--for", "4m").code == 0
    before = ann.held()
    ann.expire()
    done = ann.asks("whoami", "--json")
    assert (done.code, done.err) == (0, "")
    assert ann.held().token != before.token
    assert ann.held().lifetime == "4m"

    del ann.more["SSH_AUTH_SOCK"]
    ann.expire()
    done = ann.asks("whoami")
    assert done.code == 6
    assert "has expired" in done.err
    assert "strongroom --url" in done.err
    assert "login --as user:u-ed25519" in done.err


def test_a_token_that_was_ended_is_told_as_such(ann: Person, keys: dict[str, Path]) -> None:
    """Where the service takes a token no longer that is good by its date, the command says so, and what to do."""
    assert ann.asks("login", "--as", "u-ed25519", "--key", keys["ed25519"]).code == 0
    jti = ann.asks("whoami", "--json").json["token"]
    own = ("--home", ann.service.home)
    assert strongroom(*own, "token", "revoke", jti, "--in", "1h").code == 0
    assert ann.asks("whoami").code == 0
    assert strongroom(*own, "token", "revoke", jti).code == 0
    done = ann.asks("whoami")
    assert (done.code, "though it has not expired" in done.err) == (6, True)
    assert strongroom(*own, "token", "revoke", "nonsense").code == 4


def test_what_is_said_comes_before_a_login(ann: Person, keys: dict[str, Path]) -> None:
    """A key in variables, and a client.json that can be read, are shown in the place of a token that lies there."""
    assert ann.types("--socket", ann.service.socket, "login", "--as", "u-rsa", "--key", keys["rsa"]).code == 0
    (own,) = {ann.types("--home", ann.service.home, "whoami", "--json").json["principal"]}
    assert own.startswith("apikey:")
    assert ann.types("--socket", ann.service.socket, "whoami", "--json").json["principal"] == "user:u-rsa"
    ann.more |= {"STRONGROOM_API_ID": "nobody", "STRONGROOM_API_KEY": "nothing"}
    assert ann.types("--socket", ann.service.socket, "whoami").code == 6


def test_a_login_counts_where_the_home_names_another_address(ann: Person, keys: dict[str, Path]) -> None:
    """Beside a client.json of another service, the token of the login is shown, and without one nothing is."""
    other = ann.folder / "other"
    other.mkdir()
    file = other / "client.json"
    file.touch(0o600)
    file.write_text('{"url": "http://127.0.0.1:1", "api_id": "a", "api_key": "b"}')
    ann.more["STRONGROOM_HOME"] = str(other)
    assert ann.asks("whoami").code == 2
    assert ann.asks("login", "--as", "u-rsa", "--key", keys["rsa"]).code == 0
    assert ann.asks("whoami", "--json").json["principal"] == "user:u-rsa"


def test_the_use_of_an_api_key_is_shown(ann: Person) -> None:
    """A key that nobody has used says nothing, and one that was used when; wrong ones leave no trace."""
    own = ("--home", ann.service.home, "--json")
    made = strongroom(*own, "apikey", "create", "seldom").json
    environ = ann.environ | {"STRONGROOM_SOCKET": str(ann.service.socket), "STRONGROOM_API_ID": "seldom"}

    def used() -> str | None:
        (found,) = [each for each in strongroom(*own, "apikey", "list").json["apikeys"] if each["id"] == "seldom"]
        when: str | None = found["used"]
        return when

    assert strongroom("whoami", environ=environ | {"STRONGROOM_API_KEY": "wrong"}).code == 6
    assert used() is None
    assert strongroom("whoami", environ=environ | {"STRONGROOM_API_KEY": made["key"]}).code == 0
    eventually(used)


def test_nobody_is_logged_in_under_another_name_or_with_another_key(ann: Person, keys: dict[str, Path]) -> None:
    """Unknown names and others' keys are refused alike, and nothing is kept."""
    for name in ("u-rsa", "nobody-at-all", "service:u-ed25519"):
        done = ann.asks("login", "--as", name, "--key", keys["ed25519"])
        assert (done.code, "no key logs in as" in done.err) == (6, True), name
    assert ann.asks("login", "--as", "machine:u-rsa", "--key", keys["rsa"]).code == 1
    assert ann.asks("login", "--as", "u-rsa").code == 6  # there is no key at all
    assert not ann.files


def test_the_file_of_a_login_is_its_users_alone(ann: Person, keys: dict[str, Path]) -> None:
    """0600 in 0700, whatever the umask; what others could have written or read is not used."""
    before = os.umask(0)
    try:
        assert ann.asks("login", "--as", "u-rsa", "--key", keys["rsa"]).code == 0
    finally:
        os.umask(before)
    (path,) = ann.files
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]

    for wrong, mode in ((path, 0o640), (path.parent, 0o750)):
        right = stat.S_IMODE(wrong.stat().st_mode)
        wrong.chmod(mode)
        done = ann.asks("whoami")
        assert (done.code, "is open to others" in done.err) == (2, True)
        wrong.chmod(right)
    elsewhere = ann.folder / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert ann.asks("whoami").code == 2
    path.unlink()
    path.parent.rmdir()
    (ann.folder / "theirs").mkdir(mode=0o700)
    path.parent.symlink_to(ann.folder / "theirs")
    done = ann.asks("login", "--as", "u-rsa", "--key", keys["rsa"])
    assert (done.code, "is a link" in done.err) == (2, True)
    assert not list((ann.folder / "theirs").iterdir())


def test_another_users_runtime_directory_is_refused(ann: Person, keys: dict[str, Path]) -> None:
    """A runtime directory that is another's, or that others may write, keeps no token; without one the home's does."""
    (ann.folder / "run").chmod(0o777)
    done = ann.asks("login", "--as", "u-rsa", "--key", keys["rsa"])
    assert (done.code, "is not this user's alone" in done.err) == (2, True)
    ann.more["XDG_RUNTIME_DIR"] = str(ann.folder / "nowhere")
    assert ann.asks("login", "--as", "u-rsa", "--key", keys["rsa"]).code == 0
    (kept,) = (ann.folder / ".local/state/strongroom").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_many_who_log_in_at_once_leave_one_whole_file(ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads meanwhile sees one login or the other, whole."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(ann.folder / "run"))
    service = "https://secrets.test"
    made = [
        KeptLogin(service=service, principal=f"user:{n}", token=str(n) * 4000, expires="2027-01-01T00:00:00Z")
        for n in range(4)
    ]
    kept_logins.keep(made[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            found = kept_logins.kept(service)
            assert found in made
            seen.add(found)

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=lambda one=one: [kept_logins.keep(one) for _ in range(20)]) for one in made]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    stop.set()
    reader.join()
    assert seen
    assert len(ann.files) == len(list((ann.folder / "run" / "strongroom").iterdir())) == 1
    assert kept_logins.kept("https://another.test") is None
    kept_logins.forget(service)
    assert kept_logins.kept(service) is None


@pytest.mark.parametrize("text", [b"", b"[]", b'{"service": 7}', b"\xff", b"x" * 20_000])
def test_a_file_that_is_not_a_login_logs_nobody_in(ann: Person, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """It is as if nobody had logged in, and the next login replaces it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(ann.folder / "run"))
    login = KeptLogin(service="https://a.test", principal="user:a", token="t", expires="2027-01-01T00:00:00Z")
    kept_logins.keep(login)
    (path,) = ann.files
    path.write_bytes(text)
    assert kept_logins.kept("https://a.test") is None
    kept_logins.keep(login)
    assert kept_logins.kept("https://a.test") == login


def test_a_runtime_directory_of_anothers_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root's commands under sudo do not use the directory of whom they were started by."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError):
        kept_logins.kept("https://a.test")


def test_the_library_logs_in_and_shows_its_token(ann: Person, held: str, keys: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A stranger's client logs in by the agent, and a client of the token is whom it was given to, until logout."""
    add(held, keys["p256"], keys["ed25519"])
    monkeypatch.setenv("SSH_AUTH_SOCK", held)
    for said in ({"url": ann.service.url}, {"socket": ann.service.socket}):
        where: dict[str, Any] = said
        with StorageClient(**where) as stranger:
            given = stranger.login("user:u-ed25519", lifetime="1m")
            with pytest.raises(Denied):
                stranger.login("user:u-rsa")
        assert given.token.reveal() not in repr(given)
        with StorageClient(**where, token=given.token) as me:
            assert me.whoami().principal == "user:u-ed25519"
            assert given.token.reveal() not in repr(me)
            me.logout()
            with pytest.raises(NotAuthenticated):
                me.whoami()


def test_what_lets_somebody_in_is_nowhere_else(ann: Person, held: str, keys: dict[str, Path]) -> None:
    """Neither token nor challenge nor answer is in a log, in what is printed, or in the list of processes."""
    add(held, keys["ed25519"])
    process = spawn("--url", ann.service.url, "login", "--as", "u-ed25519", environ=ann.environ)
    listed = []
    while process.poll() is None:
        listed.append(subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout)
        time.sleep(0.02)
    done = finished(process)
    assert done.code == 0, done.err
    token = ann.held().token
    head, claims, signature = token.split(".")
    told = ann.asks("whoami").out + ann.asks("whoami", "--json").out + done.out + done.err
    ann.asks("token", "revoke", token)
    written = "".join(path.read_text(errors="replace") for path in ann.service.home.rglob("*.log"))
    assert "u-ed25519" in written
    for secret in (signature, claims):
        assert secret not in told
        assert secret not in written
        assert not any(secret in each for each in listed)
    assert "SSH SIGNATURE" not in written
    assert not re.search(r"nonce", written)
    assert head


def test_an_answer_that_another_service_asked_for_is_worth_nothing(ann: Person, keys: dict[str, Path]) -> None:
    """Who hands on this service's challenge at an address of their own gets an answer for that address."""
    key = FileKey.read(keys["ed25519"])
    with StorageClient(url=ann.service.url) as stranger:
        meant = logins.asked("user:u-ed25519", stranger.address)
        handed_on = stranger.challenge(meant)
        theirs = logins.answer(handed_on, logins.asked("user:u-ed25519", "https://elsewhere.test"), key)
        with pytest.raises(Denied):
            stranger.answer_challenge(theirs)
        assert stranger.answer_challenge(logins.answer(handed_on, meant, key)).principal == "user:u-ed25519"
        with pytest.raises(Invalid):
            stranger.challenge(logins.asked("user:u-ed25519", "https://elsewhere.test"))


def test_a_token_that_another_key_signed_is_worth_nothing(ann: Person, keys: dict[str, Path]) -> None:
    """A token with the right claims and another signature, or none, opens nothing."""
    with StorageClient(url=ann.service.url) as stranger:
        token = stranger.login("user:u-rsa", FileKey.read(keys["rsa"])).token.reveal()
        head, claims, signature = token.split(".")
        said = json.loads(base64.urlsafe_b64decode(claims + "=="))
        forged = Signer(b"k" * 64, said["iss"]).sign(said["aud"], said["sub"], said["jti"], {
            name: said[name] for name in ("credential", "epoch")
        })  # fmt: skip
        for wrong in (forged, f"{head}.{claims}.", f"{head}.{claims}.{signature[::-1]}"):
            with pytest.raises(NotAuthenticated):
                stranger.acting_for(token=wrong).whoami()
        assert stranger.acting_for(token=token).whoami().principal == "user:u-rsa"


def test_a_token_outlives_one_rotation_of_its_keyset(ann: Person, keys: dict[str, Path]) -> None:
    """The key before the active one is accepted still, the one before that no more; new logins go on."""
    own = ("--home", ann.service.home)
    command = ("login", "--as", "u-rsa", "--key", keys["rsa"])
    assert ann.asks(*command).code == 0
    assert strongroom(*own, "key", "rotate", "keyset", "tokens").code == 0
    assert ann.asks("whoami").code == 0
    assert strongroom(*own, "key", "rotate", "keyset", "tokens").code == 0
    assert ann.asks("whoami").code == 6
    assert ann.asks(*command).code == 0
    assert ann.asks("whoami").code == 0
