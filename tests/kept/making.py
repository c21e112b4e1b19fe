"""Make what later versions have to open: ``python -m tests.kept.making tests/kept/NAME``, run once for each form of it.

home.tar.gz    a home that opens by its key file: secrets under several keys, a host, an API key, a moved source
unlock.tar.gz  a home whose keyring any of two unlock keys opens
shares.tar.gz  a home whose keyring two of three shares open
etcd.jsonl     the rows of a store in etcd, that of the first home
backup         a backup of the first home
export         its exported keyring
said.json      what is in them, and the keys
"""

import base64
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.deploy.running import clean_environment, strongroom, up
from tests.etcd_server import running

HELD = {"db/first": "under the first key", "db/second": "under the second key", "web/tls": "under another keyset"}
MOVED = {"moved/1": "from a file", "moved/2": "from a file, too"}
HOST, SSH_KEY = "10.0.0.7", "the key of a host"


def make(place: Path) -> None:
    """Fill the new folder *place*."""
    place.mkdir()
    scratch = Path(tempfile.mkdtemp(prefix="sr"))
    try:
        said = _first_home(scratch, place)
        for mode, how in (("unlock", ("--keys", "2")), ("shares", ("--shares", "2/3"))):
            said[mode] = _home_of_people(scratch / mode, place / f"{mode}.tar.gz", "--mode", mode, *how)
        _in_etcd(scratch, place)
        (place / "said.json").write_text(json.dumps(said, indent=2) + "\n")
    finally:
        shutil.rmtree(scratch)


def run(home: Path, *words: object, stdin: str = "") -> Any:
    """Run a command about *home*, which has to succeed; return what it printed as JSON, or the secret itself."""
    environ = clean_environment(STRONGROOM_OUTPUT="json")
    done = strongroom("--home", home, *words, stdin=stdin.encode(), environ=environ)
    assert done.code == 0, done
    return json.loads(done.out) if done.out.startswith(("{", "[")) else done.out


def _first_home(scratch: Path, place: Path) -> dict[str, Any]:
    home, source, key = scratch / "home", scratch / "source.jsonl", scratch / "id"
    source.write_text(
        "".join(json.dumps({"name": f"secrets/{name}", "value": value}) + "\n" for name, value in MOVED.items())
    )
    key.write_text(SSH_KEY)
    with up(home):
        run(home, "secret", "put", "--parents", "db/first", stdin=HELD["db/first"])
        run(home, "key", "rotate", "keyset", "default")
        run(home, "secret", "put", "db/second", stdin=HELD["db/second"])
        run(home, "key", "keyset", "create", "web")
        run(home, "secret", "mkdir", "web")
        run(home, "key", "keyset", "assign", "web/", "web")
        run(home, "secret", "put", "web/tls", stdin=HELD["web/tls"])
        run(home, "host", "put", HOST, "--force", "--ssh-key-file", key, "--remote-user", "root")
        api_key = run(home, "apikey", "create", "reader", "--path", "/secrets/db", "--action", "get")["key"]
        run(home, "migrate", "apply", "jsonl", source)
        run(home, "backup", place / "backup")
        run(home, "key", "export", "--file", place / "export")
    shutil.copy(home / "secrets.key", place / "secrets.key")
    _pack(home, place / "home.tar.gz")
    return {"secrets": HELD | MOVED, "host": HOST, "ssh_key": SSH_KEY, "api_key": api_key}


def _home_of_people(home: Path, file: Path, *how: str) -> list[str]:
    with up(home, environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")):
        made = run(home, "key", "init", *how)
        keys: list[str] = made["keys"]
        run(home, "key", "unlock", stdin="\n".join(keys[: made.get("needed") or 1]))
        run(home, "secret", "put", "--parents", "db/first", stdin=HELD["db/first"])
    _pack(home, file)
    return keys


def _in_etcd(scratch: Path, place: Path) -> None:
    (scratch / "etcd").mkdir()
    with running(scratch / "etcd") as etcd:
        home = scratch / "moved"
        done = strongroom(
            "restore",
            place / "backup",
            "--home",
            home,
            "--store",
            etcd.url("kept"),
            "--key-file",
            place / "secrets.key",
        )
        assert done.code == 0, done
        with etcd.admin() as admin, (place / "etcd.jsonl").open("w") as file:
            for key, entry in admin.keys("/kept/").items():
                file.write(json.dumps([key, base64.b64encode(entry.value).decode()]) + "\n")


def _pack(home: Path, file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for each in sorted(home.iterdir()):
            if each.name not in {"run", "log"}:
                archive.add(each, each.name)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
