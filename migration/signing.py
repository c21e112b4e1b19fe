"""Reports that can be checked later: signed with the key of their run (JWS, RFC 7515; EdDSA with Ed25519, RFC 8037).

    {"payload": {…the report, for people…}, "jws": "eyJ…", "public_key": {"kty": "OKP", "crv": "Ed25519", …}}

What a signature proves: who held the key of the run made this report, and nothing of it was changed since. That key is
made with the run and lies sealed in its journal, so it takes whoever reaches everything in the service. What it does
not prove: that the report is true, when it was made, or that no later one says otherwise. The public key in a document
is there for convenience; a check is worth what the key is that it is made with, so take that from the service.
"""

from typing import Any, Final

import msgspec
from jwcrypto import jwk, jws
from jwcrypto.common import JWException

from strongroom.migration.errors import Forged
from strongroom.migration.journal import Run
from strongroom.migration.report import Report
from strongroom.models.strict_json import UNREADABLE

ALGORITHM: Final = "EdDSA"
TYPE: Final = "strongroom-report+jws"


_FIRST_SCHEMA: Final = "strongroom.migrate/1"  # which called a source's kind its source, and a source an estate


def _renamed(report: Any) -> Any:
    """Return a report with the names of today, whatever version of this program signed it."""
    if not isinstance(report, dict) or report.get("schema") != _FIRST_SCHEMA:
        return report
    names = {"source": "kind", "estate": "source"}
    return {names.get(name, name): value for name, value in report.items()}


def signed(report: Report, run: Run) -> dict[str, Any]:
    """Return *report* as a document that can be checked."""
    key = jwk.JWK.from_json(run.signing_key)
    payload = msgspec.json.encode(report)
    signature = jws.JWS(payload)
    header = {"alg": ALGORITHM, "kid": key.thumbprint(), "typ": TYPE}
    signature.add_signature(key, protected=msgspec.json.encode(header).decode())
    return {
        "payload": msgspec.json.decode(payload),
        "jws": signature.serialize(compact=True),
        "public_key": public_key(run),
    }


def public_key(run: Run) -> dict[str, Any]:
    """Return the key that checks the reports of *run*, as a JWK with its thumbprint (RFC 7638) as its id."""
    key = jwk.JWK.from_json(run.signing_key)
    return {**key.export_public(as_dict=True), "kid": key.thumbprint()}


def check(document: object, public_key: dict[str, Any]) -> Report:
    """Return the report of *document*, which was signed with the counterpart of *public_key*.

    Raises:
        Forged: it was not, or what stands there for people is not what was signed.
    """
    if not isinstance(document, dict):
        raise Forged("this is not a signed report")
    try:
        key = jwk.JWK(**{name: value for name, value in public_key.items() if name in ("kty", "crv", "x")})
        signature = jws.JWS()
        signature.allowed_algs = [ALGORITHM]
        signature.deserialize(document.get("jws", ""), key)
        header = signature.jose_header
        payload = signature.payload
    except (JWException, *UNREADABLE, TypeError):
        raise Forged("the signature was made with another key, or the report was changed since") from None
    if header.get("typ") != TYPE or header.get("kid") != key.thumbprint():
        raise Forged("this is not a signature over a migration report")
    if msgspec.json.decode(payload) != document.get("payload"):
        raise Forged("what the document shows is not what was signed")
    try:
        return msgspec.convert(_renamed(msgspec.json.decode(payload)), Report)
    except UNREADABLE:
        raise Forged("another version of this program signed the report, and this one cannot read it") from None
