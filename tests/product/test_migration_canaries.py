"""Secrets of every kind planted in estates and in what opens them, and all that a migration emits searched for them."""

import base64
import json
import re
import signal
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Scrubbable
from strongroom.storage_service.client import StorageClient
from tests.deploy.running import Done, Up, clean_environment, eventually, spawn, strongroom, up
from tests.etcd_server import running
from tests.migration.sources import convection, csv_file, custodia, json_lines, key_directory, openbao
from tests.migration.sources.commissaire import EstateV3, container_manager, host
from tests.migration.sources.rows import RowEstate
from tests.ssh_keys import with_a_word

HOST_KEY = "canaryHOSTKEYv4lue"
TOKEN = "canaryCMTOKENv4lue"
SECRET = "canarySECRETv4lue1"
BROKEN = "canaryBROKENv4lue2"
CREDENTIAL = "canaryCREDENTIALv4lue"
PEM = with_a_word(HOST_KEY)
MANY = 3000


def _pieces(text: bytes) -> Iterator[bytes]:
    """Yield what base64 of anything with *text* in it must hold: one of these, at whichever of three alignments."""
    for shift in range(3):
        encoded = base64.b64encode(b" " * shift + text)
        yield encoded[4 : len(encoded) // 4 * 4 - 4]  # clear of the edges


def forms(*planted: str) -> list[bytes]:
    """Return the forms that secrets are looked for in: in the clear, in base64, and in base64 of that."""
    found = []
    for each in planted:
        once = list(_pieces(each[:18].encode()))
        found += [each.encode(), *once, *(piece for inner in once for piece in _pieces(inner))]
    return found


CANARIES = forms(HOST_KEY, TOKEN, SECRET, BROKEN, CREDENTIAL)


@dataclass
class Emitted:
    """All that came out, by where; what a source is opened with is looked for besides the canaries."""

    found: dict[str, bytes] = field(default_factory=dict)
    patterns: list[bytes] = field(default_factory=lambda: list(CANARIES))

    def files(self, directory: Path) -> None:
        """Take every file below *directory*."""
        for path in directory.rglob("*"):
            with suppress(OSError):  # a socket
                self.found[str(path)] = path.read_bytes()

    def telling(self) -> dict[str, list[bytes]]:
        """Return where secrets stand, and which forms of them; it should be nowhere."""
        hits = {place: [form for form in self.patterns if form in text] for place, text in self.found.items()}
        return {place: forms for place, forms in hits.items() if forms}


class Planted(NamedTuple):
    """An estate with canaries in it, sound and malformed, and the secrets that open it."""

    kind: str
    place: str
    options: Mapping[str, Sequence[str]]
    credentials: Sequence[str] = ()


@contextmanager
def planted_csv(directory: Path) -> Iterator[Planted]:
    """A table of hosts."""
    with csv_file.estate(directory) as made:
        assert isinstance(made, RowEstate)
        made.put_many(range(3))
        made.put_secret(3, PEM)
        made.write(made.text([*made.rows(), ["broken", BROKEN], ["b,r", "", "x", BROKEN, BROKEN]]))
        yield Planted(made.kind, made.place, made.options)


@contextmanager
def planted_json_lines(directory: Path) -> Iterator[Planted]:
    """Lines: a host, credentials, secrets in text and in base64, and what is cut short or of another shape."""
    with json_lines.estate(directory) as made:
        assert isinstance(made, RowEstate)
        for number in range(4):
            made.put_secret(number, PEM if number < 2 else SECRET)
        wrong = [
            f'{{"name": "secrets/box/broken", "value": "{BROKEN}',
            f'"{BROKEN}"',
            json.dumps({"name": "secrets/box/list", "value": [BROKEN]}),
            json.dumps({"name": "secrets/no name/at all", "value": BROKEN}),
            json.dumps({"model": "HostCreds", "address": "x", "ssh_priv_key": f"{BROKEN}!"}),
            json.dumps({"model": "Host", "address": "x", "cpus": BROKEN}),
            json.dumps({"name": "secrets/box/octets", "value_base64": f"{BROKEN}!"}),
        ]
        made.write(made.text([*made.rows(), *wrong]))
        yield Planted(made.kind, made.place, made.options)


@contextmanager
def planted_keys(directory: Path) -> Iterator[Planted]:
    """A directory of keys, and files that are none."""
    with key_directory.estate(directory) as made:
        assert isinstance(made, key_directory.KeyDirectory)
        made.put(0)
        made.write("planted", PEM.encode())
        made.write("broken", f"this was {BROKEN} once\n".encode())
        yield Planted(made.kind, made.place, made.options)


@contextmanager
def planted_commissaire(directory: Path) -> Iterator[Planted]:
    """Commissaire's keys in an etcd: hosts, a container manager with a token, and what is no JSON."""
    with running(directory) as store:
        made = EstateV3(store)
        made.put_value("hosts/h1", host("h1", base64.b64encode(PEM.encode()).decode()))
        made.put_value("hosts/h2", host("h2", PEM))
        made.put_value("container_managers/cm", container_manager("cm", token=TOKEN))
        made.put_value("hosts/broken", f'{{"address": "broken", "ssh_priv_key": "{BROKEN}'.encode())
        made.put_value("hosts/shape", host("shape", BROKEN + "!", cpus=BROKEN))
        yield Planted(made.kind, made.place, {**made.options, "data_dir": [str(made.directory)]})


@contextmanager
def planted_custodia(directory: Path) -> Iterator[Planted]:
    """A store of Custodia's under EncryptedOverlay, and rows that it did not write."""
    with custodia.estate_overlay(directory) as made:
        made.put_secret(0, PEM)
        made.put_secret(1, SECRET)
        with made.server.sql() as table:
            for number, value in enumerate((BROKEN, f"{BROKEN}.{BROKEN}", f"{BROKEN}.." * 2 + BROKEN)):
                table.execute(f"INSERT INTO {custodia.TABLE} VALUES (?, ?)", (f"keys/hosts/broken{number}", value))
        master = json.loads(made.server.key.read_text())["k"]
        yield Planted(made.kind, made.place, made.options, (master,))


@contextmanager
def planted_openbao(directory: Path) -> Iterator[Planted]:
    """A mount of OpenBao, with fields that no secret is made of."""
    with openbao.estate_v2(directory) as made:
        made.put_secret(1, SECRET)
        made.write("ssh/h1", {"private_key": PEM, "username": "core"})
        made.write("ssh/broken", {"private_key": f"{BROKEN}!", "username": [BROKEN]})
        made.write("broken/höst", {"value": BROKEN})
        yield Planted(made.kind, made.place, made.options, (made.bao.token,))


@contextmanager
def planted_convection(directory: Path) -> Iterator[Planted]:
    """A storage directory of Convection."""
    with convection.convection(directory) as made:
        made.put_secret(1, SECRET)
        made.ask("set", made.store("broken"), "no name", BROKEN)
        yield Planted(made.kind, made.place, made.options, made.unlock_keys)


ESTATES: dict[str, Callable[[Path], AbstractContextManager[Planted]]] = {
    "csv": planted_csv,
    "jsonl": planted_json_lines,
    "keys": planted_keys,
    "commissaire": planted_commissaire,
    "custodia": planted_custodia,
    "openbao": planted_openbao,
    "convection": planted_convection,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One product for this module, which logs all that it can."""
    with up(tmp_path_factory.mktemp("canaries") / "home", "--debug") as made:
        Thread(target=keep_log, args=[made], daemon=True).start()
        yield made


def keep_log(service: Up) -> None:
    """Keep what the service logs beside its audit log; nobody else reads it, and it is more than a pipe holds."""
    assert service.process.stderr is not None
    with (service.home / "log" / "service").open("w") as log, suppress(ValueError):  # closed when the service ends
        for line in service.process.stderr:
            log.write(line)
            log.flush()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where programs put what is temporary."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


def said(planted: Planted, verb: str, *more: object) -> list[str]:
    """Return the words of a verb on an estate."""
    options = [word for name, values in planted.options.items() for each in values for word in ("-o", f"{name}={each}")]
    return ["migrate", verb, planted.kind, planted.place, *options, *map(str, more)]


def ran(emitted: Emitted, environ: Mapping[str, str], *arguments: object, terminal: bool = False) -> Done:
    """Run the command, and take what it says; with the traceback, where it has one to show."""
    try:
        done = strongroom(*arguments, environ=environ, terminal=terminal)
    except Exception:  # what STRONGROOM_DEBUG=1 shows
        done = Done(99, "", traceback.format_exc())
    emitted.found[f"{len(emitted.found)}: {arguments[1]}"] = (done.out + done.err).encode()
    return done


@pytest.mark.parametrize("kind", ESTATES)
def test_no_verb_tells_a_canary(service: Up, tmp_path: Path, temporary: Path, kind: str) -> None:
    """From plan to forget, with malformed rows: no output, plan, report, log, store or temporary file tells one."""
    environ = clean_environment(
        STRONGROOM_HOME=str(service.home), STRONGROOM_DEBUG="1", TMPDIR=str(temporary), SQLITE_TMPDIR=str(temporary)
    )
    emitted = Emitted()
    with ExitStack() as stack:
        (tmp_path / "estate").mkdir()
        planted = stack.enter_context(ESTATES[kind](tmp_path / "estate"))
        emitted.patterns += forms(*planted.credentials)
        own = json.loads((service.home / "client.json").read_text())["api_key"]
        plan, report = tmp_path / "kept" / "plan", tmp_path / "kept" / "report"
        plan.parent.mkdir()
        scrubbable = isinstance(open_source(planted.kind, planted.place, planted.options), Scrubbable)

        steps: list[tuple[str, list[object], set[int]]] = [
            ("plan", [], {2}),
            ("plan", ["--out", plan], {2}),
            ("apply", [], {2}),
            ("apply", ["--skip-bad", "--plan", plan], {0}),
            ("verify", [], {0}),  # what the apply was told to leave behind may stay so
            ("verify", ["--skip-bad", "--report", report], {0}),
            ("status", [], {0}),
            ("scrub", ["--yes"], {0, 2} if scrubbable else {2}),
            ("scrub", ["--search-only"], {0, 2}),
            ("rollback", ["--yes"], {0}),
            ("apply", ["--skip-bad", "--on-conflict", "replace"], {0}),
        ]
        for number, (verb, more, codes) in enumerate(steps):
            done = ran(emitted, environ, *said(planted, verb, *more), terminal=number % 2 == 0)
            assert done.code in codes, (verb, more, done)
            if verb == "verify" and more:
                assert ran(emitted, environ, "migrate", "check", report).code == 0
        run = ran(emitted, environ, "migrate", "status", "--json").json["runs"][-1]["run"]
        for terminal in (True, False):
            ran(emitted, environ, "migrate", "status", terminal=terminal)
        emitted.files(service.home / "data")  # the journal is in it
        ran(emitted, environ, *said(planted, "rollback", "--yes"))
        assert ran(emitted, environ, "migrate", "forget", run, "--yes").code in (0, 4)

        emitted.files(tmp_path / "kept")
        emitted.files(service.home / "log")
        emitted.files(service.home / "data")
        emitted.files(temporary)
        assert any("plan" in place for place in emitted.found)
        assert emitted.telling() == {}
        emitted.patterns = [own.encode()]
        assert emitted.telling() == {}
        assert list(temporary.iterdir()) == []


def secret_file(directory: Path, text: str, mode: int = 0o600) -> Path:
    """Write what a source is to be opened with."""
    path = directory / f"secret{len(list(directory.iterdir()))}"
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text)
    return path


WRONG: dict[str, Callable[[Path], list[object]]] = {
    "a password in etcd's place": lambda _: ["commissaire", f"etcd://root:{CREDENTIAL}@127.0.0.1:1"],
    "a password in a URL": lambda _: ["openbao", f"http://root:{CREDENTIAL}@127.0.0.1:1"],
    "a token in a URL": lambda _: ["openbao", f"http://127.0.0.1:1/?token={CREDENTIAL}"],
    "a token for an option": lambda _: ["openbao", "http://127.0.0.1:1", "-o", f"token={CREDENTIAL}"],
    "an option that is one": lambda _: ["openbao", "http://127.0.0.1:1", "-o", CREDENTIAL],
    "nobody answers": lambda path: [
        *("openbao", "http://127.0.0.1:1", "-o", f"token_file={secret_file(path, CREDENTIAL)}", "-o", "timeout=1")
    ],
    "a token that others can read": lambda path: [
        *("openbao", "http://127.0.0.1:1", "-o", f"token_file={secret_file(path, CREDENTIAL, 0o644)}")
    ],
    "a token that no header takes": lambda path: [
        *("openbao", "http://127.0.0.1:1", "-o", f"token_file={secret_file(path, CREDENTIAL + 'ü' + chr(7))}")
    ],
    "a master key that is none": lambda path: [
        *("custodia-sqlite", store(path), "-o", f"key={secret_file(path, CREDENTIAL)}")
    ],
    "a master key of another shape": lambda path: [
        *(
            "custodia-sqlite",
            store(path),
            "-o",
            f"key={secret_file(path, json.dumps({'kty': 'oct', 'k': [CREDENTIAL]}))}",
        )
    ],
    "another master key": lambda path: [
        "custodia-sqlite",
        store(path),
        *("-o", f"key={secret_file(path, json.dumps({'kty': 'oct', 'k': CREDENTIAL + 'A' * 65}))}"),
    ],
    "an unlock key that is none": lambda path: [
        *("convection", path, "-o", f"unlock_key_file={secret_file(path, CREDENTIAL)}")
    ],
    "a table whose first row is a secret's": lambda path: ["csv", secret_file(path, f"h1,{SECRET}\nh2,{SECRET}\n")],
    "a table that is a key": lambda path: ["csv", secret_file(path, PEM)],
    "a table in another encoding": lambda path: ["csv", utf_16(path)],
    "lines that are a key": lambda path: ["jsonl", secret_file(path, PEM)],
    "lines in another encoding": lambda path: ["jsonl", utf_16(path)],
    "an inventory that is a key": lambda path: ["ansible", secret_file(path, PEM)],
    "an inventory cut short": lambda path: ["ansible", secret_file(path, f"all:\n  hosts: {{h1: {{a: '{SECRET}")],
    "an inventory with a password": lambda path: [
        *("ansible", secret_file(path, f"h1 ansible_password='{SECRET}\nh2 ansible_password={SECRET} {BROKEN}\n"))
    ],
}


def store(directory: Path) -> Path:
    """Return a store that looks like Custodia's, of which no key opens anything."""
    path = directory / "custodia.db"
    with closing(sqlite3.connect(path)) as table, table:
        table.execute("CREATE TABLE CustodiaSecrets (key TEXT PRIMARY KEY, value TEXT)")
        table.execute("INSERT INTO CustodiaSecrets VALUES ('keys/box/', ''), ('keys/box/a', ?)", (BROKEN,))
    return path


def utf_16(directory: Path) -> Path:
    """Return a file in an encoding that is not looked for."""
    path = secret_file(directory, "")
    path.write_bytes(f"container,key,value\nbox,a,{SECRET}\n".encode("utf-16") + SECRET.encode())
    return path


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_what_fails_tells_no_canary(service: Up, tmp_path: Path, temporary: Path, case: str, terminal: bool) -> None:
    """What is wrong with a place, a credential or a file is set without a piece of it, and never by a traceback."""
    environ = clean_environment(STRONGROOM_HOME=str(service.home), STRONGROOM_DEBUG="1", TMPDIR=str(temporary))
    emitted = Emitted()
    directory = tmp_path / "estate"
    directory.mkdir()

    done = ran(emitted, environ, "migrate", "plan", *WRONG[case](directory), terminal=terminal)

    assert done.code not in (0, 99), done
    assert emitted.telling() == {}, done


def test_the_environment_opens_a_source_unseen(service: Up, tmp_path: Path) -> None:
    """A credential that comes in a variable is used, and told by nothing."""
    emitted = Emitted()
    base = {"STRONGROOM_HOME": str(service.home), "STRONGROOM_DEBUG": "1"}
    for name, arguments in {
        "BAO_TOKEN": ["openbao", "http://127.0.0.1:1", "-o", "timeout=1"],
        "VAULT_TOKEN": ["openbao", "http://127.0.0.1:1", "-o", "timeout=1"],
        "STRONGROOM_CONVECTION_UNLOCK_KEY": ["convection", str(tmp_path)],
    }.items():
        done = ran(emitted, clean_environment(**base, **{name: CREDENTIAL}), "migrate", "plan", *arguments)
        assert done.code not in (0, 99), (name, done)
    assert emitted.telling() == {}


def test_killed_in_the_middle_it_leaves_no_canary(service: Up, tmp_path: Path, temporary: Path) -> None:
    """Stopped in the middle, nothing that it has open but the source tells one; killed, it leaves no file behind."""
    place = tmp_path / "estate.jsonl"
    place.touch(0o600)
    lines = [{"name": f"secrets/killed/s{each:06}", "value": f"{SECRET} of {each} " * 8} for each in range(MANY)]
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    environ = clean_environment(STRONGROOM_HOME=str(service.home), STRONGROOM_DEBUG="1", TMPDIR=str(temporary))
    emitted = Emitted()
    with StorageClient.from_home(service.home) as client:
        process = spawn("migrate", "apply", "jsonl", place, environ=environ)
        eventually(lambda: process.poll() is not None or client.list_bulk("secrets/killed/s").names)
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None
        looked = Path(f"/proc/{process.pid}")
        for piece in ("cmdline", "environ"):
            emitted.found[piece] = (looked / piece).read_bytes()
        for descriptor in (looked / "fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("/") and not target.startswith(("/dev/", str(place))):
                emitted.found[target] = descriptor.read_bytes()
        process.kill()
        out, err = process.communicate()
        emitted.found["said"] = (out + err).encode()
    emitted.files(temporary)
    emitted.files(service.home)

    assert emitted.telling() == {}
    assert list(temporary.iterdir()) == []
    assert ran(emitted, environ, "migrate", "rollback", "jsonl", place, "--yes").code == 0


def test_canaries_are_found_where_they_are(tmp_path: Path) -> None:
    """The search itself finds a canary in the clear, in base64 at any alignment, and in base64 of that."""
    for shift in range(3):
        for again in range(3):
            once = base64.b64encode(b"x" * shift + HOST_KEY.encode() + b"more")
            emitted = Emitted({"once": once, "twice": base64.b64encode(b"y" * again + once)})
            assert set(emitted.telling()) == {"once", "twice"}
    assert re.fullmatch("canary[A-Za-z0-9]+", HOST_KEY)
