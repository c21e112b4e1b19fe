"""The proxy, tried by its own description: schemathesis makes requests of it, right and wrong, and judges answers."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import httpx
import pytest

from tests.deploy.running import up

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = ROOT / ".venv-schemathesis/bin/schemathesis"  # made by `make test`
SETTINGS: Final = Path(__file__).with_name("schemathesis.toml")
CASES: Final = 2  # an operation and phase, beside those that its description makes necessary

_PAST: Final = "no schema says what a credential of each kind is, or which moment is past"

# What it finds and is meant so: the code of the finding, the method or the operation, and why.
MEANT: Final = {
    ("ST202", "POST /api/v0/auth/challenge"): "no schema says at which addresses the service is spoken to",
    ("ST202", "POST /api/v0/access/rules/-/try"): "no schema says how long 366 days are in the spelling of durations",
    ("ST202", "POST /api/v0/access/rules/-/diff"): "no schema says what a network of IPv4 or IPv6 is",
    ("ST201", "POST /api/v0/access/rules/-/diff"): "a scalar in YAML is the text that it is: a note may say false",
    ("ST202", "POST /api/v0/access/rules/-/explain"): "no schema says what an address of IPv4 or IPv6 is",
    ("ST202", "PUT /api/v0/access/users/{name}"): _PAST,
    ("ST202", "PUT /api/v0/access/services/{name}"): _PAST,
    ("ST202", "POST /api/v0/access/users/{name}/credentials/"): _PAST,
    ("ST202", "POST /api/v0/access/services/{name}/credentials/"): _PAST,
    (
        "ST101",
        "QUERY",
    ): "501: a method that nothing here has (RFC 9110 sec. 15.6.2); that it is no 5xx is a rule of thumb",
    ("ST204", "QUERY"): "as above: 405 is for methods that are known here, and not offered at the path",
}


def known_by_key(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description without the ways to be known that it does not try: two at once are refused, and counted.

    Wrong credentials would make the next wait, and nothing but that would be tried.
    """
    schemes = description["components"]["securitySchemes"]
    key: dict[str, list[str]] = {"apiId": [], "apiKey": []}
    description["components"]["securitySchemes"] = {name: schemes[name] for name in key}
    description["security"] = [key]
    for item in description["paths"].values():
        for method, told in item.items():
            if method != "parameters" and told.get("security"):
                told["security"] = [key]
    return description


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What it found at a service of its own, which keeps all in memory; seed and number of cases are fixed."""
    assert PROGRAM.exists(), "schemathesis is missing: make .venv-schemathesis/complete"
    here = tmp_path_factory.mktemp("tried")
    with up(here / "home", "--store", "memory") as running:
        known = json.loads((here / "home" / "client.json").read_text())
        environ = {"PATH": os.defpath, "HOME": str(here), "TRIED_ID": known["api_id"], "TRIED_KEY": known["api_key"]}
        described = here / "openapi.json"
        described.write_text(json.dumps(known_by_key(json.loads(urlopen(f"{running.url}/openapi.json").read()))))
        command: list[str | Path] = [PROGRAM, "--config-file", SETTINGS, "run", described, "--url", running.url]
        told: list[str | Path] = [
            "--max-examples",
            str(CASES),
            "--report",
            "json",
            "--report-json-path",
            here / "report.json",
        ]
        done = subprocess.run([*command, *told], cwd=here, env=environ, capture_output=True, text=True, check=False)
        assert (here / "report.json").exists(), done.stdout + done.stderr
        yield json.loads((here / "report.json").read_text()) | {"said": done.stdout}


def test_it_finds_nothing_but_what_is_meant(report: dict[str, Any]) -> None:
    """No failure of a server, no answer that is not described, no request judged otherwise than is told."""
    found = {
        (failure["code"], operation)
        for failure in report["failures"]
        for operation in failure["operations"]
        if not {(failure["code"], operation.partition(" ")[0]), (failure["code"], operation)} & MEANT.keys()
    }
    assert found == set(), report["said"]
    assert report["errors"] == []


def test_every_operation_is_tried(report: dict[str, Any]) -> None:
    """All of the description, each phase to its end, in some hundreds of cases."""
    operations = report["operations"]
    assert operations["total"] == operations["tested"] > 40
    assert report["complete"]
    assert report["test_cases"]["generated"] > 500


def test_what_is_meant_is_still_found(report: dict[str, Any]) -> None:
    """The list of what is meant has no line that nothing answers to."""
    found = {
        (failure["code"], said)
        for failure in report["failures"]
        for operation in failure["operations"]
        for said in (operation, operation.partition(" ")[0])
    }
    assert set(MEANT) <= found


def test_no_operation_is_done_for_nobody(tmp_path: Path) -> None:
    """Without credentials each operation that asks for some is 401; with a wrong key it is refused, or has to wait."""
    with up(tmp_path / "home", "--store", "memory") as running, httpx.Client(base_url=running.url) as client:
        described = client.get("/openapi.json").json()
        asked = [
            (method.upper(), re.sub(r"{[^}]*}", "a", path))
            for path, item in described["paths"].items()
            for method, told in item.items()
            if method != "parameters" and told.get("security") != []
        ]
        wrong = {"custodia-auth-id": "nobody", "custodia-auth-key": "wrong"}
        nobody = {client.request(method, path).status_code for method, path in asked}
        guessed = {client.request(method, path, headers=wrong).status_code for method, path in asked}

    assert len(asked) > 40
    assert nobody == {401}
    assert guessed <= {403, 429}
