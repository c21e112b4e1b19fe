"""Secrets planted everywhere they can enter, and everything that the product emits searched for them."""

import base64
import json
import re
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service import wire
from tests.deploy.running import ROOT, Up, clean_environment, descendants, up

# Each is long and random enough to be found nowhere by chance, and has a piece that survives base64 and escaping.
SECRET = "canarySECRETv4lue" + "x" * 40
KEY = "canaryAPIKEYv4lue" + "y" * 40
PASSWORD = "canaryPASSWORDv4lue" + "z" * 40
SSH_KEY = base64.b64encode(b"canarySSHKEYv4lue" + b"k" * 600).decode()


def traces(text: bytes) -> list[bytes]:
    """Return what in *text* tells of a canary: itself, or its base64 at any of the three alignments."""
    found = re.findall(rb"canary[A-Z]+v4lue", text)
    for planted in (SECRET, KEY, PASSWORD, "canarySSHKEYv4lue"):
        for shift in range(3):
            encoded = base64.b64encode(b" " * shift + planted.encode()[:18])
            piece = encoded[4:20]  # clear of the alignment's edges
            found += re.findall(re.escape(piece), text)
    return found


def provoke(running: Up) -> list[httpx.Response]:
    """Take every way in with canaries in it, rightly and wrongly, and return all answers that must not hold any.

    Names are not secret (docs/encryption.md), so no canary stands in one.
    """
    known = json.loads((running.home / "client.json").read_text())
    own = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    simple = {"Content-Type": "application/json"}
    message = json.dumps({"type": "simple", "value": SECRET})
    answers = []
    with (
        httpx.Client(base_url=running.url) as proxy,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(running.socket)), base_url="http://socket") as local,
    ):
        for client, root in ((proxy, "/api/v0/secrets"), (local, "/secrets")):
            box = f"{root}/box{client is proxy}"
            ask = client.request
            answers += [
                ask("POST", f"{box}/", headers=own),
                ask("PUT", f"{box}/a", headers=own | simple, content=message),
                ask("PUT", f"{box}/a", headers=own | simple, content=message),
                ask("PUT", f"{box}/a", headers=own | simple | {"If-Match": "*"}, content=message),
                ask("PUT", f"{box}/a", headers=own | simple | {"If-Match": SECRET}, content=message),
                ask("PUT", f"{box}/b", headers=own | simple, content=message[:-3]),
                ask("PUT", f"{box}/b", headers=own | {"Content-Type": SECRET}, content=message),
                ask("PUT", f"{box}/b", headers=own | simple, content=json.dumps({SECRET: SECRET})),
                ask("PUT", f"{box}/b", headers=own | simple, content=json.dumps({"type": SECRET, "value": SECRET})),
                ask("PUT", f"{box}/b", headers=own | simple, content=SECRET.encode("utf-16")),
                ask("PATCH", f"{box}/a", headers=own | simple, content=message),
                ask("GET", f"{box}/a", headers={wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: KEY}),
                ask("GET", f"{box}/a", headers={wire.ID_HEADER: KEY, wire.KEY_HEADER: KEY}),
                ask("GET", f"{box}/a", headers={**own, "CUSTODIA_KEY_ID": KEY}),
                ask("GET", f"{box}/a", auth=("alice", PASSWORD)),
                ask("GET", f"{box}/a", headers={"Authorization": f"Bearer {KEY}", "Cookie": KEY}),
                ask("DELETE", f"{box}/a", headers=own | {"If-Match": SECRET}),
                ask("GET", f"{box}/", headers=own),
            ]
        host = {"address": "10.9.9.9", "ssh_priv_key": SSH_KEY, "remote_user": "root"}
        answers += [
            proxy.put("/api/v0/host/10.9.9.9", headers=own, json=host),
            proxy.put("/api/v0/host/10.9.9.9", headers=own, json=host | {"ssh_priv_key": SSH_KEY + "!"}),
            proxy.put("/api/v0/host/10.9.9.8", headers=own, json=host),
            proxy.put("/api/v0/host/10.9.9.7", headers=own, json={**host, "address": "10.9.9.7", SECRET: SECRET}),
            proxy.get("/api/v0/host/10.9.9.9", headers=own),
            proxy.get("/api/v0/hosts/", headers=own),
            proxy.get("/api/v0/hosts/", auth=("alice", PASSWORD)),
            proxy.put(
                "/api/v0/containermanager/cm", headers=own, json={"type": "openshift", "options": {"token": SECRET}}
            ),
            proxy.get("/api/v0/containermanager/cm", headers=own),
            local.post(
                "/storage/get", headers=own, json={"model": "HostCreds", "records": [{"address": "a", SECRET: 1}]}
            ),
            local.post("/storage/save", headers=own, json={"model": SECRET, "records": []}),
            local.post(
                "/storage/save", headers=own, json={"model": "HostCreds", "records": [host | {"remote_user": 7}]}
            ),
            local.post("/apikeys", headers=own, json={"id": "ci", "paths": [SECRET], "actions": [SECRET]}),
            local.post("/apikeys", headers=own, json={"id": "ci", SECRET: SECRET}),
            local.get("/apikeys", headers=own),
            *(
                local.post("/bulk/commit", headers=own, json={"changes": [change]})
                for change in (
                    {"name": "secrets/boxTrue/s", "value": SECRET},
                    {"name": "secrets/boxTrue/s", "value": SECRET, "etag": SECRET},
                    {"name": "secrets/boxTrue/s", "value": SECRET, "etag": '"0"'},
                    {"name": "secrets/boxTrue/", "value": SECRET},
                    {"name": "secrets/none/s", "value": SECRET},
                    {"name": "secrets/boxTrue/s", "value": [SECRET]},
                    {"name": "system/journal/s", "value": SECRET},
                    {"name": "system/access/apikeys/s", "value": SECRET},
                )
            ),
            local.post("/bulk/list", headers=own, json={"prefix": "secrets/", "after": None}),
            local.get("/status", headers=own),
        ]
    return answers


def test_no_canary_comes_out(tmp_path: Path) -> None:
    """With everything at DEBUG, no answer, log line, audit line, process list, file or store row tells a canary."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "users.json").write_text(json.dumps({"alice": {"hash": PasswordHasher().hash(PASSWORD)}}))
    (home / "strongroom.toml").write_text(
        'proxy_authenticators = [{name = "apikey"}, {name = "basic", filepath = "%s"}]\n' % (home / "users.json")
    )
    with up(home, "--debug") as running:
        answers = provoke(running)
        emitted = {
            f"answer {index} to {answer.request.method} {answer.request.url.path}": answer.content
            + str(answer.headers).encode()
            for index, answer in enumerate(answers)
        }
        for pid in running.family():
            for piece in ("cmdline", "environ"):
                with suppress(PermissionError):  # closed to all but root, where there are keys
                    emitted[f"{piece} of {pid}"] = Path(f"/proc/{pid}/{piece}").read_bytes()
        done = running.end()
        emitted |= {"standard output": done.out.encode(), "standard error": done.err.encode()}
        for path in running.home.rglob("*"):
            if path.is_file():
                emitted[str(path.relative_to(running.home))] = path.read_bytes()

    assert {place: traces(text) for place, text in emitted.items() if traces(text)} == {}
    assert len(done.err) > 0
    assert (running.home / "log" / "audit.log").stat().st_size > 0
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 403, 409, 501}


@pytest.mark.parametrize(
    "request_",
    [
        f"GET /secrets/a/b HTTP/1.1\r\nHost: x\r\nCUSTODIA-AUTH-KEY {KEY}\r\n\r\n",
        f"GET /secrets/a/b HTTP/1.1\r\nHost: x\r\nCUSTODIA-AUTH-KEY: {KEY}\x00\r\n\r\n",
        f"GET /secrets/a/b HTTP/1.1\r\nHost: x\r\n{KEY} : x\r\n\r\n",
        f"{KEY} /secrets/a/b HTTP/1.1\r\nHost: x\r\n\r\n",
        f"PUT /secrets/a/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
        f"PUT /secrets/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n",
        f"GET /secrets/a/b?{SECRET} HTTP/{SECRET}\r\nHost: x\r\n\r\n",
        f"GET /secrets/a/b HTTP/1.1\r\nHost: x\r\nx: {KEY * 300}\r\n\r\n",
    ],
)
@pytest.mark.parametrize("face", ["socket", "proxy"])
def test_a_malformed_request_is_not_quoted(strongroom_server: Server, face: str, request_: str) -> None:
    """What the HTTP parser refuses comes back with a status, and without a piece of what was sent."""
    if face == "socket":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(strongroom_server.socket))
    else:
        url = httpx.URL(strongroom_server.url)
        connection = socket.create_connection((url.host, url.port))
    with connection:
        connection.settimeout(10)
        connection.sendall(request_.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece

    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) or answer == b""
    assert traces(answer) == []


def test_the_store_holds_ciphertext(tmp_path: Path) -> None:
    """What was put is in the SQLite file as a JWE whose header names key and place, and as nothing else."""
    with up(tmp_path / "home") as running:
        provoke(running)
        running.end()
        rows = dict(sqlite3.connect(running.home / "data" / "strongroom.db").execute("select name, value from entry"))

    header = rows["secrets/hosts/10.9.9.9"].partition(b".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))) == {
        "alg": "dir",
        "enc": "A256CBC-HS512",
        "kid": "default.1",
        "custodia.key": "keys/hosts/10.9.9.9",
    }
    assert b"ssh_priv_key" not in rows["hosts/10.9.9.9"]


def test_the_command_tells_no_canary(tmp_path: Path) -> None:
    """The command reads a secret from its input, and no process of it ever carries one in its arguments."""
    with up(tmp_path / "home") as running:
        arguments = [
            sys.executable,
            "-m",
            "strongroom.deploy.cli",
            "--home",
            str(running.home),
            "secret",
            "put",
            "--parents",
            "c/k",
        ]
        with subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            seen = b"".join(
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *descendants(process.pid))
            )
            out, err = process.communicate(SECRET.encode())

    assert process.returncode == 0
    assert traces(seen + out + err) == []
