"""The documentation does what it says: each command of a page is typed in the order it stands, in one fresh home."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.etcd_server import Etcd, free_port, running
from tests.pages.page import ROOT, commands
from tests.pages.reader import Reader
from tests.product.test_migration_story import old_estate

UNLOCK_KEY = re.compile(r"SR1(?:-[0-9A-Z]{1,5}){12}")
SHARE = re.compile(r"^ *\d  ((?:[a-z]+ ?){20,33})$", re.MULTILINE)
SET_UP: Mapping[str, str] = {"make ": "it makes and tries what these tests run in"}

Opens = Callable[..., Reader]


@pytest.fixture
def opens() -> Iterator[Opens]:
    """Open a page: somebody who has a fresh home reads it."""
    with ExitStack() as stack:

        def open_page(
            page: str,
            words: Mapping[str, str] | None = None,
            elsewhere: Mapping[str, str] | None = None,
            instead: Mapping[str, Callable[[Reader], object]] | None = None,
            **options: int,
        ) -> Reader:
            home = Path(tempfile.mkdtemp(prefix="sr"))  # short, for a socket's path
            stack.callback(shutil.rmtree, home)
            return stack.enter_context(Reader(page, home, words or {}, elsewhere or {}, instead or {}, **options))

        yield open_page


def keep_headers(reader: Reader, api_id: str) -> None:
    """Put the two credentials that the screen shows into a file, as the pages ask."""
    key = next(word for word in reader.screen.split() if len(word) > 40)
    file = reader.home / "headers.txt"
    file.write_text(f"CUSTODIA-AUTH-ID: {api_id}\nCUSTODIA-AUTH-KEY: {key}\n")


def test_quick_start(opens: Opens, etcd: Etcd) -> None:
    """The quick start leads from nothing to a secret, to somebody else's key, and to etcd."""
    cluster = {"etcd://etcd1:2379,etcd2:2379,etcd3:2379/strongroom": etcd.url("page-quick-start")}
    reader = opens("docs/quick-start.md", cluster, SET_UP)

    reader.follow(until="curl")
    keep_headers(reader, "ci")
    reader.follow(until="strongroom backup")
    reader.ends_service()
    reader.follow()

    assert len(reader.does("strongroom secret get db/password").split()[-1]) == 32


def test_readme(opens: Opens, tmp_path: Path) -> None:
    """What the README shows works as it stands: the command, the client library, and plain HTTP."""
    with running(tmp_path) as old:
        old_estate(old, "10.0.2")
        reader = opens("README.md", {"etcd://127.0.0.1:2379": old.url("")}, SET_UP)
        reader.answers["Secret: "] = lambda _: "correct horse"
        reader.does("ssh-keygen -q -t ed25519 -N '' -f id_ed25519")

        reader.follow(until="strongroom migrate plan")
        keep_headers(reader, "reader")
        reader.follow()


class Keys:
    """Somebody who keeps what is printed, and types it when asked."""

    def __init__(self, reader: Reader) -> None:
        self._kept: list[str] = []
        for many in (1, 5):
            for number in range(many):
                reader.answers[f"New key {number + 1} of {many}: "] = partial(self._new, UNLOCK_KEY, number)
        for number in range(3):
            reader.answers[f"Share {number + 1} of 3: "] = partial(self._new, SHARE, number)
        reader.answers["Unlock key or share: "] = lambda _: self._kept[0]

    def _new(self, form: re.Pattern[str], number: int, shown: str) -> str:
        self._kept = [each.strip() for each in form.findall(shown)]
        return self._kept[number]


def test_keys(opens: Opens, etcd: Etcd) -> None:
    """Each way to start, to lock, to let machines in, to change keys and to carry them elsewhere goes as told."""
    reader = opens(
        "docs/keys.md",
        {"/backups/": "./", "DIR": "~/elsewhere"},
        {"cp secrets.key": "no key file opens this store by then; the page of backups restores one that it does"},
        columns=400,
    )
    Keys(reader)
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")

    for after in ("strongroom key init --mode shares", "strongroom key init --mode file", "strongroom machine config"):
        start_without_keys(reader)
        reader.follow(until=after)
    start_without_keys(reader)
    reader.follow(until="strongroom key lock")

    start_without_keys(reader)
    reader.does("strongroom key init --mode unlock --keys 1")
    reader.follow(until="strongroom machine config")

    for machine in ("A", "B"):
        reader.does(f"export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/{machine}", machine)
        reader.does(f"mkdir -m 700 ~/{machine}", machine)
        reader.does(f"echo 'store = \"{etcd.url('page-keys')}\"' > ~/{machine}/strongroom.toml", machine)
    reader.follow(until="strongroom machine authorize")
    reader.does("cp ~/B/machine.pub b.pub", "A")
    reader.follow(until="strongroom machine list")
    reader.does("echo a > authorizers.txt", "A")
    reader.follow(until="strongroom key keyset create")

    reader.does("echo 4111 | strongroom secret put --parents payments/card")
    reader.follow(until="strongroom key import")
    reader.ends_service()
    reader.does("mkdir -m 700 ~/elsewhere && cp -r ~/strongroom/data ~/elsewhere")
    reader.follow()

    assert "4111" in reader.does("strongroom secret get payments/card --home ~/elsewhere")


def start_without_keys(reader: Reader) -> None:
    """Begin a home anew, whose service makes no keys."""
    reader.ends_service()
    reader.does("rm -rf ~/strongroom && mkdir -m 700 ~/strongroom")
    reader.does("echo 'autogen_root_key = false' > ~/strongroom/strongroom.toml")
    reader.serves("strongroom up --home ~/strongroom")


OF_A_MACHINE = "it is the whole machine's, and needs root and systemd"
OF_CONTAINERS = "it needs podman"
OF_A_PACKAGE = "it takes minutes and a network; tests of the Debian package make one, and run what dpkg runs"


def test_operating(opens: Opens) -> None:
    """What an operator does once the service is installed goes as told; a service in a home stands for systemd's."""
    serve = "strongroom up --home ~/strongroom"
    reader = opens(
        "docs/operating.md",
        {"/etc/strongroom": "~/strongroom", "/opt/strongroom/bin/": ".venv/bin/"},
        {
            "deploy/systemd/install.sh": OF_A_MACHINE,
            "setpriv": OF_A_MACHINE,
            "install ": OF_A_MACHINE,
            "systemctl edit": OF_A_MACHINE,
            "systemctl stop strongroom-proxy &&": OF_A_MACHINE,
            "systemctl restart strongroom-proxy": OF_A_MACHINE,
            "ln -sfn": OF_A_MACHINE,
            "systemctl disable": OF_A_MACHINE,
            "systemctl daemon-reload": OF_A_MACHINE,
            "rm -r /etc": OF_A_MACHINE,
            "rm /etc/systemd": OF_A_MACHINE,
            "make deb": OF_A_PACKAGE,
            "apt install": OF_A_PACKAGE,
            "podman": OF_CONTAINERS,
            "cd deploy/container": OF_CONTAINERS,
        },
        {
            "systemctl stop strongroom-proxy strongroom-storage": Reader.ends_service,
            "systemctl start strongroom-storage": lambda reader: reader.serves(serve),
            "systemctl restart strongroom-storage": lambda reader: reader.serves(serve),
        },
        columns=400,
    )
    Keys(reader)
    reader.answers["Secret: "] = lambda _: "correct horse"
    reader.does("export PATH=$PWD/.venv/bin:$PATH")
    reader.serves(serve)

    reader.follow()

    assert "unlocked" in reader.does("strongroom --home ~/strongroom status")
    assert "correct horse" in reader.does("strongroom --home ~/strongroom secret get db/password")


def test_backup(opens: Opens, etcd: Etcd) -> None:
    """A backup is taken, checked, restored elsewhere and into etcd, and the drill leaves nothing behind."""
    reader = opens(
        "docs/backup.md",
        {
            "/backups/": "./",
            "FILE": "first.backup",
            "DIR": "~/elsewhere",
            "127.0.0.1:8999": f"127.0.0.1:{free_port()}",
            "etcd://etcd1:2379/strongroom": etcd.url("page-backup-restored"),
            "etcd://127.0.0.1:2379/strongroom": etcd.url("page-backup-grown"),
        },
        {"strongroom backup - | gpg": "it needs gpg, and somebody's key"},
        {"kill %1; wait %1      ": Reader.ends_service},
    )
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
    reader.serves("strongroom up --home ~/strongroom")
    reader.does("echo hunter2 | strongroom secret put --parents db/password")
    reader.does("cp ~/strongroom/secrets.key .")

    reader.follow(until="strongroom restore FILE")
    reader.does("mkdir -m 700 ~/elsewhere; cp secrets.key ~/elsewhere")
    reader.follow(until="strongroom restore monday.backup --home DIR --key-file")
    reader.does("rm -r ~/elsewhere")
    reader.follow(until="strongroom restore monday.backup --home DIR --store")
    reader.does("rm -r ~/elsewhere; mkdir -m 700 ~/elsewhere; cp secrets.key ~/elsewhere")
    reader.follow(until="strongroom key usage --scan")
    before = reader.home / "state"
    assert "unlocked" in before.read_text()
    reader.follow()

    assert not (reader.home / "drill").exists()
    backups = json.loads(reader.does("strongroom key backup list --json"))["backups"]
    assert not [backup for backup in backups if backup["label"] == "drill"]
    assert "hunter2" in reader.does("strongroom secret get db/password")


def test_http_api(opens: Opens) -> None:
    """The page's requests keep a key's octets, and give them back."""
    reader = opens("docs/http-api.md")
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
    reader.serves("strongroom up --home ~/strongroom")
    reader.does("strongroom host put 10.0.0.7")
    reader.screen = reader.does("strongroom apikey create web --path /")
    keep_headers(reader, "web")
    reader.does("ssh-keygen -q -t ed25519 -N '' -f web.key")

    reader.follow(until="curl -i")
    assert reader.screen.strip() == (reader.home / "web.key").read_text().strip()
    reader.follow(until="curl -H @headers.txt -X PUT http://127.0.0.1:8000/api/v0/host")
    (reader.words['"12"'],) = re.findall(r"etag\S*: (\S+)", reader.screen, re.IGNORECASE)
    reader.follow()

    assert '"cpus":8' in reader.screen


def test_configuration(opens: Opens, etcd: Etcd) -> None:
    """The page's commands do what it says; those that need another user of the machine are in a test of settings."""
    reader = opens(
        "docs/configuration.md",
        {"/opt/strongroom/bin/": ".venv/bin/", "DIR": "~/proposal"},
        {
            "install ": OF_A_MACHINE,
            "sudo": OF_A_MACHINE,
            "strongroom up --home DIR --storage-conf": "a test of the proposal's files starts the service with them",
        },
    )
    reader.answers["Password: "] = lambda _: "correct horse"
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")

    reader.follow()


def test_client_library(opens: Opens) -> None:
    """The page's commands install; its programs are run by a test of the client."""
    pip = "tests of the wheel install each, with and without its extras"
    runs = "tests of the client run the page's programs as one"
    opens("docs/client-library.md", {}, {"pip install": pip, "python": runs}).follow()


def test_commands(opens: Opens) -> None:
    """Every example of the page of commands does what its comment says."""
    reader = opens("docs/commands.md")
    reader.answers["Secret: "] = lambda _: "correct horse"
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom EDITOR='sed -i s/horse/mare/'")
    reader.serves("strongroom up --home ~/strongroom")
    reader.does("head -c 32 /dev/urandom > key.der; echo hunter2 > password.txt")

    reader.follow()

    assert (reader.home / "key.der").stat().st_size == 32
    assert "team" not in reader.does("strongroom secret ls")


def test_access(opens: Opens) -> None:
    """Somebody is added, logs in at a terminal of her own, is refused, and logs out, as the page shows it."""
    reader = opens("docs/access.md", columns=200)
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
    reader.serves("strongroom up --home ~/strongroom")
    reader.does("ssh-keygen -q -t ed25519 -N '' -f id_ed25519")
    reader.does("mkdir -m 700 run", "A")
    reader.does("export PATH=$PWD/.venv/bin:$PATH XDG_RUNTIME_DIR=$PWD/run; unset SSH_AUTH_SOCK", "A")

    reader.follow()

    assert not list((reader.home / "run" / "strongroom").iterdir())


def test_rules(opens: Opens) -> None:
    """Rules are made, explained, and tried on what is on record, as the page shows it."""
    reader = opens("docs/rules.md", columns=200)
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
    reader.serves("strongroom up --home ~/strongroom")
    for name in ("web/root", "web/key"):
        reader.does(f"echo value | strongroom secret put --parents {name}")
    reader.screen = reader.does("strongroom apikey create ci --path /secrets/web")
    keep_headers(reader, "ci")
    secrets = f"http://{reader.words['127.0.0.1:8000']}/api/v0/secrets/web"

    reader.follow(until="strongroom rule explain --case")
    refused = reader.does(f"curl -sS -H @headers.txt {secrets}/root")
    (reader.words["REQUEST"],) = re.findall(r'"request_id":"(\w+)"', refused)
    reader.does(f"curl -sf -o got.txt -H @headers.txt {secrets}/key")
    reader.follow()


def test_migration(opens: Opens, tmp_path: Path) -> None:
    """An estate moves in, is proved and scrubbed as the page shows it, screen by screen."""
    with running(tmp_path) as old:
        old_estate(old)
        reader = opens(
            "docs/migration.md",
            {
                "/var/lib/etcd/default": str(tmp_path / "m0"),
                "etcd://127.0.0.1:2379": old.url(),
                "etcd member 127.0.0.1:2379": f"etcd member {old.endpoints}",
                "commissaire-fcsik4pexp": "commissaire-…",
            },
            {
                **dict.fromkeys(("etcdctl", "mv ", "chown", "rm -r", "systemctl"), OF_A_MACHINE),
                "strongroom migrate scrub RUN": "it is for an etcd that was given new files, which needs root",
            },
            columns=200,
        )
        reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
        reader.serves("strongroom up --home ~/strongroom")

        reader.follow(until="strongroom migrate verify commissaire-")
        (run,) = set(re.findall(r"commissaire-\w{10}", reader.screen))
        reader.words |= {"commissaire-fcsik4pexp": run, "RUN": run}
        reader.follow()


def test_users(opens: Opens) -> None:
    """Somebody becomes the first administrator, adds others, and gives and takes credentials, as the page shows."""
    reader = opens("docs/users.md")
    reader.does("export PATH=$PWD/.venv/bin:$PATH STRONGROOM_HOME=~/strongroom")
    reader.serves("strongroom up --home ~/strongroom")
    reader.does("mkdir ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    reader.follow(until="strongroom user setup")
    codes = re.compile(r"^code +(\S+)$", re.MULTILINE)
    reader.answers |= {"Code: ": lambda _: codes.findall(reader.screen)[-1], "Password: ": lambda _: "correct horse"}
    reader.answers["The same once more: "] = reader.answers["Password: "]

    reader.follow()

    assert "administrators (manager)" in reader.does("strongroom user show ann")
    assert "correct horse" not in reader.screen


FOLLOWED = {
    "README",
    "access",
    "users",
    "rules",
    "quick-start",
    "keys",
    "operating",
    "backup",
    "http-api",
    "configuration",
    "client-library",
    "commands",
    "migration",
}


def test_every_page_with_commands_is_followed() -> None:
    """A page that tells somebody to type something is followed here."""
    told = {page.stem for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")] if list(commands(page.read_text()))}

    assert told == FOLLOWED
