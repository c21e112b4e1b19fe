"""Metrics and readiness of the running product: who may read them, and what is in them."""

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.metrics import OWN, SERVING, full_name
from tests.audit_lines import audit_lines
from tests.deploy.certificates import DAY, NOW, Files
from tests.deploy.running import Up, clean_environment, descendants, eventually, strongroom, up

TOKEN = "0123456789abcdef0123456789abcdef"
TOLD = clean_environment(STRONGROOM_METRICS_TOKEN=TOKEN)
BEARER = {"Authorization": f"Bearer {TOKEN}"}
Page = dict[tuple[str, ...], float]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that does not exist yet; its path is short, for the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path / "home"
    shutil.rmtree(path)


def page(running: Up, headers: dict[str, str] = BEARER) -> Page:
    """Return what the proxy tells, each number by its name and the values of its labels."""
    answer = httpx.get(f"{running.url}/metrics", headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read(answer.text)


def read(text: str) -> Page:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parsed(text)
        for sample in family.samples
    }


def on_socket(running: Up, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(running.socket))) as client:
        return client.request(method, f"http://socket{path}", headers=headers)


def key(running: Up, name: str, *paths: str) -> dict[str, str]:
    """Return the head fields of a new API key that reaches *paths*."""
    with StorageClient.from_home(running.home) as client:
        made = client.create_apikey(name, paths=paths)
    return {wire.ID_HEADER: name, wire.KEY_HEADER: made.api_key.reveal()}


def test_who_may_read_the_metrics(home: Path) -> None:
    """The token does and reaches nothing else, a key by what it reaches, the service's own user; nobody else."""
    with up(home, environ=TOLD) as running:
        url = f"{running.url}/metrics"
        assert page(running)["strongroom_proxy_service_up",] == 1
        for wrong in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer"},
            {"Authorization": TOKEN},
        ):
            assert httpx.get(url, headers=wrong).status_code == 401
        assert httpx.get(url, headers=[*BEARER.items(), *BEARER.items()]).status_code in (400, 401)
        assert httpx.get(f"{running.url}/api/v0/hosts/", headers=BEARER).status_code == 401
        assert httpx.get(f"{running.url}/api/v0/secrets/", headers=BEARER).status_code == 401

        failures = {
            labels[1]: count
            for labels, count in page(running).items()
            if labels[0] == "strongroom_proxy_authentication_failures_total"
        }
        assert failures["none"] == 1 and failures["wrong"] >= 3  # a token that is guessed is no want of one

        watcher, other = key(running, "watcher", "/system/status"), key(running, "other", "/secrets/box")
        assert page(running, watcher)["strongroom_proxy_service_up",] == 1
        assert httpx.get(url, headers=other).status_code == 403
        assert on_socket(running, "GET", "/metrics").status_code == 200
        assert on_socket(running, "GET", "/metrics", watcher).status_code == 200
        assert on_socket(running, "GET", "/metrics", other).status_code == 403
        forged = {wire.PROXY_HEADER: "http_proxy:guessed"}
        assert on_socket(running, "GET", "/metrics", forged).status_code == 401
        log = audit_lines(home / "log/audit.log")

    denied = [line for line in log if line["decision"] == "denied" and line.get("principal") == "apikey:other"]
    assert denied and TOKEN not in json.dumps(log)
    assert not [line for line in log if line["name"] == "system/status" and line["decision"] == "allowed"]


def test_without_a_token_nobody_shows_one(home: Path) -> None:
    """An empty bearer opens nothing where no token is set; a key does all the same."""
    with up(home) as running:
        for shown in ("Bearer", f"Bearer {TOKEN}"):
            assert httpx.get(f"{running.url}/metrics", headers={"Authorization": shown}).status_code == 401
        assert page(running, key(running, "watcher", "/system/status"))


def test_a_token_that_could_be_guessed_is_refused(home: Path) -> None:
    """The error names the variable and how to make one, and does not repeat what was said."""
    done = strongroom("up", "--home", home, environ=clean_environment(STRONGROOM_METRICS_TOKEN="canary1"))
    assert done.code != 0 and "STRONGROOM_METRICS_TOKEN" in done.err and "openssl rand" in done.err
    assert "canary1" not in done.err + done.out


def test_every_metric_is_told_and_none_names_anything(home: Path) -> None:
    """What is defined for such a store is there, thousands of strange requests add nothing, and no name is in it."""
    absent = {"etcd_members", "etcd_certificate_expiry_timestamp_seconds", "certificate_expiry_timestamp_seconds"}
    absent |= {"last_backup_timestamp_seconds"}
    with up(home, environ=TOLD) as running, StorageClient.from_home(home) as client:
        client.create_container("canaryzone")
        client.set_secret("canaryzone", "canarykey", "canaryvalue")
        before = page(running)
        with httpx.Client(base_url=running.url) as http:
            for number in range(1000):
                http.request(f"CANARY{chr(65 + number % 26)}", f"/canary{number}/{number}", headers={"X": "canary"})
        after = httpx.get(f"{running.url}/metrics", headers=BEARER).text

    names = {full_name(process, each) for process, own in OWN.items() for each in (*SERVING, *own)}
    families = {name.removesuffix(end) for name, *_ in before for end in ("", "_bucket", "_sum", "_count")}
    for process, own in OWN.items():
        for each in (*SERVING, *own):
            assert (full_name(process, each) in families) is (each.name not in absent), each
    assert {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name, *_ in before} <= names
    assert "canary" not in after.lower() and str(home) not in after and "127.0.0.1" not in after
    assert len(before) <= len(read(after)) < 400
    assert before["strongroom_storage_encrypted_records", "active"] >= 1
    assert before["strongroom_storage_requests_total", "PUT", "secrets", "2xx"] == 1


def test_the_end_of_the_certificate_that_is_served_is_told(home: Path) -> None:
    """Over TLS it is the second at which the chain's first certificate expires, and after a renewal the new one's."""
    files = Files.at(home.parent / "tls")
    expiry = "strongroom_proxy_certificate_expiry_timestamp_seconds"
    soon, later = NOW + 3 * DAY, NOW + 90 * DAY
    files.renew(not_after=soon)
    with up(home, environ=TOLD | files.environ) as running, httpx.Client(verify=files.trusting()) as client:

        def told() -> float:
            return read(client.get(f"{running.url}/metrics", headers=BEARER).text)[expiry,]

        assert told() == soon.timestamp()
        files.renew(not_after=later)
        assert told() == soon.timestamp()  # that is what clients are still shown
        os.kill(running.gunicorn("proxy"), signal.SIGHUP)
        eventually(lambda: told() == later.timestamp())


def test_locked_it_still_tells(home: Path) -> None:
    """The token opens while keys cannot be looked up; what needs a key is not there, and comes back with it."""
    with up(home, environ=TOLD) as running, StorageClient.from_home(home) as client:
        assert page(running)["strongroom_storage_keysets",] == 2
        client.lock()
        locked = page(running)
        assert locked["strongroom_storage_state", "locked"] == 1 and locked["strongroom_storage_state", "unlocked"] == 0
        assert ("strongroom_storage_keysets",) not in locked
        client.unlock()
        assert page(running)["strongroom_storage_keysets",] == 2


def test_without_the_service_the_proxy_tells_its_own(home: Path) -> None:
    """Who has the token sees that the service is silent, and still what the proxy counts."""
    with up(home, environ=TOLD) as running:
        (worker,) = descendants(running.gunicorn("storage"))
        for pid in (running.gunicorn("storage"), worker):
            os.kill(pid, signal.SIGSTOP)
        try:
            told = httpx.get(f"{running.url}/metrics", headers=BEARER, timeout=30)
        finally:
            for pid in (running.gunicorn("storage"), worker):
                os.kill(pid, signal.SIGCONT)
    silent = read(told.text)
    assert silent["strongroom_proxy_service_up",] == 0
    assert silent["strongroom_proxy_workers",] == 1
    assert not [name for name, *_ in silent if name.startswith("strongroom_storage_")]


def test_what_is_no_request_is_counted_as_such(home: Path) -> None:
    """Bytes that are no HTTP are turned away, and counted by why; what has credentials that are wrong by those."""
    with up(home, environ=TOLD) as running:
        address = httpx.URL(running.url)
        for sent in (b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00"):
            with socket.create_connection((address.host, address.port), timeout=10) as connection:
                connection.sendall(sent)
                assert connection.recv(12) == b"HTTP/1.1 400"
        wrong = {wire.ID_HEADER: "nobody", wire.KEY_HEADER: "guess"}
        assert httpx.get(f"{running.url}/api/v0/hosts/", headers=wrong).status_code == 403
        told = page(running)
    assert told["strongroom_proxy_refused_total", "malformed"] == 2
    assert told["strongroom_proxy_authentication_failures_total", "wrong"] == 1
    assert told["strongroom_proxy_requests_total", "GET", "models", "4xx"] == 1


def test_counts_outlive_a_worker_that_is_killed(home: Path) -> None:
    """Whichever worker is asked tells of all; one that is killed leaves its counts, and its place to the next."""
    with up(home, "--workers", "2", environ=TOLD) as running, StorageClient.from_home(home) as client:
        eventually(lambda: page(running)["strongroom_storage_workers",] == 2)
        client.create_container("box")
        for number in range(20):
            client.set_secret("box", f"k{number}", "v")
        assert page(running)["strongroom_storage_requests_total", "PUT", "secrets", "2xx"] == 20
        killed = descendants(running.gunicorn("storage"))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        alive = lambda: [p for p in descendants(running.gunicorn("storage")) if p not in killed]  # noqa: E731
        eventually(lambda: len(alive()) == 2 and page(running).get(("strongroom_storage_workers",)) == 2)
        after = page(running)
    assert after["strongroom_storage_requests_total", "PUT", "secrets", "2xx"] == 20
    assert after["strongroom_storage_requests_in_flight",] == 1


def test_locked_is_unready_where_the_settings_say_so(home: Path) -> None:
    """Both faces answer 503 to GET and HEAD while locked, 200 after; `up` starts all the same."""
    environ = TOLD | {"STRONGROOM_READY_WHEN_LOCKED": "false", "STRONGROOM_AUTOGEN_ROOT_KEY": "false"}
    well = {"audit": True, "store": True, "keyring": True}
    with up(home, environ=environ) as running, StorageClient.from_home(home) as client:
        waiting = httpx.get(f"{running.url}/readyz")
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "1")
        assert waiting.json() == {
            "status": "unready",
            "state": "uninitialized",
            "checks": {"service": True, **well},
        }
        assert on_socket(running, "GET", "/readyz").json() == {
            "status": "unready",
            "state": "uninitialized",
            "checks": well,
        }
        for head in (httpx.head(f"{running.url}/readyz"), on_socket(running, "HEAD", "/readyz")):
            assert (head.status_code, head.content) == (503, b"")
        client.init_keyring("file")
        ready = httpx.head(f"{running.url}/readyz")
        assert (ready.status_code, ready.content) == (200, b"")
        assert on_socket(running, "HEAD", "/readyz").status_code == 200
