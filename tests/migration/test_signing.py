"""Signed reports: what a signature proves, and that nothing else is taken for one."""

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from jwcrypto import jwk, jws

from strongroom.migration.errors import Forged
from strongroom.migration.journal import Run, new_run
from strongroom.migration.report import Report
from strongroom.migration.signing import check, public_key, signed


@pytest.fixture(scope="module")
def run() -> Run:
    """A run with keys of its own."""
    return new_run("memory", "somewhere", {}, "memory:somewhere")


@pytest.fixture
def report(run: Run) -> Report:
    """A report of it."""
    made = Report(verb="verify", run=run.name, kind="memory", source=run.identity, started="2026-01-01T00:00:00Z")
    made.tell("differs", "hosts/h1", "the service holds another value", "secrets/hosts/h1")
    made.complete, made.sum = False, "c3Vt"
    return made


def test_it_comes_back(run: Run, report: Report) -> None:
    """A document, written to a file and read again, checks with the run's public key and is the report."""
    document = json.loads(json.dumps(signed(report, run)))

    assert check(document, public_key(run)) == report
    assert document["public_key"] == public_key(run)


def test_one_of_an_earlier_version(run: Run, report: Report) -> None:
    """A report that was signed when a source was called an estate checks, and has the names of today."""
    before = msgspec.to_builtins(report) | {"schema": "strongroom.migrate/1", "estate": report.source}
    before["source"] = before.pop("kind")
    payload = json.dumps(before).encode()
    key = jwk.JWK.from_json(run.signing_key)
    signature = jws.JWS(payload)
    header = {"alg": "EdDSA", "kid": key.thumbprint(), "typ": "strongroom-report+jws"}
    signature.add_signature(key, protected=json.dumps(header))
    document = {"payload": before, "jws": signature.serialize(compact=True), "public_key": public_key(run)}

    assert check(document, public_key(run)) == msgspec.structs.replace(report, schema="strongroom.migrate/1")


def test_any_program_of_jose_checks_it(run: Run, report: Report) -> None:
    """It is a compact JWS under EdDSA; its key's id is the thumbprint."""
    document = signed(report, run)
    key = jwk.JWK(**document["public_key"])
    signature = jws.JWS()
    signature.deserialize(document["jws"], key)

    assert signature.jose_header == {"alg": "EdDSA", "kid": key.thumbprint(), "typ": "strongroom-report+jws"}
    assert json.loads(signature.payload) == document["payload"]


def test_it_holds_no_private_key(run: Run, report: Report) -> None:
    """What is handed out has the public half alone."""
    private = json.loads(run.signing_key)["d"]

    assert private not in json.dumps(signed(report, run))


def _shown(document: dict[str, Any]) -> None:
    document["payload"]["complete"] = True


def _signed_text(document: dict[str, Any]) -> None:
    header, payload, signature = document["jws"].split(".")
    text = base64.urlsafe_b64decode(payload + "==").replace(b'"complete":false', b'"complete":true')
    document["payload"]["complete"] = True
    document["jws"] = ".".join((header, base64.urlsafe_b64encode(text).rstrip(b"=").decode(), signature))


def _no_algorithm(document: dict[str, Any]) -> None:
    _, payload, _ = document["jws"].split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    document["jws"] = f"{header}.{payload}."


def _own_key(document: dict[str, Any]) -> None:
    key = jwk.JWK.generate(kty="OKP", crv="Ed25519")
    forged = jws.JWS(json.dumps(document["payload"]).encode())
    header = {"alg": "EdDSA", "kid": key.thumbprint(), "typ": "strongroom-report+jws"}
    forged.add_signature(key, protected=json.dumps(header))
    document["jws"] = forged.serialize(compact=True)
    document["public_key"] = key.export_public(as_dict=True)


def _cut(document: dict[str, Any]) -> None:
    document["jws"] = document["jws"][:-8]


def _gone(document: dict[str, Any]) -> None:
    del document["jws"]


def _number(document: dict[str, Any]) -> None:
    document["jws"] = 7


@pytest.mark.parametrize("edit", [_shown, _signed_text, _no_algorithm, _own_key, _cut, _gone, _number])
def test_an_edit_is_noticed(run: Run, report: Report, edit: Callable[[dict[str, Any]], None]) -> None:
    """Whatever somebody changes, or signs with a key of his own, does not check."""
    document = copy.deepcopy(signed(report, run))
    edit(document)

    with pytest.raises(Forged):
        check(document, public_key(run))


@pytest.mark.parametrize("document", [None, [], "text", {}])
def test_what_is_none(run: Run, document: object) -> None:
    """Anything else is refused as well."""
    with pytest.raises(Forged):
        check(document, public_key(run))


def test_something_else_of_the_same_key(run: Run, report: Report) -> None:
    """What the key signed as something other than a report is no report."""
    key = jwk.JWK.from_json(run.signing_key)
    other = jws.JWS(b"{}")
    other.add_signature(key, protected=json.dumps({"alg": "EdDSA", "kid": key.thumbprint(), "typ": "JWT"}))

    with pytest.raises(Forged):
        check({"payload": {}, "jws": other.serialize(compact=True)}, public_key(run))


def test_another_run(run: Run, report: Report) -> None:
    """A report of one run does not check with another's key."""
    other = new_run("memory", "elsewhere", {}, "memory:elsewhere")

    with pytest.raises(Forged):
        check(signed(report, run), public_key(other))
