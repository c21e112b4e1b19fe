"""Who comes through the proxy, in real processes: by password, by certificate, and from what address."""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from strongroom.storage_service import wire
from tests.audit_lines import audit_lines
from tests.deploy.certificates import Issued, issue
from tests.deploy.running import Up, eventually, up

URI: Final = "spiffe://example.net/runner"
API: Final = wire.API_PATH


class Certified:
    """A running service whose proxy asks for certificates, and clients with some."""

    def __init__(self, running: Up, folder: Path, authority: Issued) -> None:
        self.running = running
        self.folder = folder
        self.authority = authority
        known = json.loads((running.home / "client.json").read_text())
        self.own = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}

    def client(self, shown: Issued | None = None, **options: Any) -> httpx.Client:
        """Return a client that shows a certificate, or none."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if shown is not None:
            chain, key = self.folder / "shown.pem", self.folder / "shown.key"
            chain.write_bytes(shown.pem)
            key.write_bytes(shown.key_pem)
            context.load_cert_chain(chain, key)
        return httpx.Client(base_url=self.running.url, verify=context, timeout=15, **options)

    def on_socket(self, method: str, path: str, said: object = None) -> httpx.Response:
        """Ask the service itself, as its operator."""
        transport = httpx.HTTPTransport(uds=str(self.running.socket))
        with httpx.Client(transport=transport, base_url="http://socket", headers=self.own, timeout=15) as client:
            answer = client.request(method, path, json=said) if said is not None else client.request(method, path)
        assert answer.is_success, answer.text
        return answer

    def guesses(self, address: str) -> int:
        """Return how many wrong credentials from *address* are on record; those of one address share lines."""
        lines = audit_lines(self.running.home / "log/audit.log")
        return sum(line.get("count", 1) for line in lines if line.get("from") == address)

    def line(self, answer: httpx.Response) -> dict[str, Any]:
        """Return the last line of the audit log about the request of *answer*."""
        lines = audit_lines(self.running.home / "log/audit.log")
        return [line for line in lines if line["request"] == answer.headers["x-request-id"]][-1]


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    """A service with a user of a password, and three services of certificates."""
    folder = tmp_path_factory.mktemp("certified")
    home = folder / "home"
    home.mkdir(mode=0o700)
    authority = issue("Test CA", authority=True)
    server = issue("127.0.0.1", authority)
    (folder / "ca.pem").write_bytes(authority.pem)
    (home / "cert.pem").write_bytes(server.pem)
    (home / "ca.pem").write_bytes(authority.pem)
    (home / "key.pem").touch(0o600)
    (home / "key.pem").write_bytes(server.key_pem)
    (home / "strongroom.toml").write_text(
        'tls_certificate = "cert.pem"\ntls_key = "key.pem"\ntls_client_certificates = "optional"\n'
        'tls_client_ca = "ca.pem"\ntrusted_proxies = 1\n'
        'proxy_authenticators = [{name = "apikey"}, {name = "token"}, {name = "basic"}]\n'
    )
    with up(home) as running:
        made = Certified(running, folder, authority)
        word = {"kind": "password", "data": "correct horse"}
        made.on_socket("PUT", "/access/users/ann", {"admin": True, "credentials": [word]})
        made.on_socket("PUT", "/access/services/runner", {"credentials": [{"kind": "certificate", "data": URI}]})
        yield made


def test_a_password_comes_through_on_every_route(certified: Certified) -> None:
    """On records, secrets and access alike the service judges it; a wrong one is 403, and none is 401."""
    guesser = {"X-Forwarded-For": "192.0.2.77"}
    with (
        certified.client(auth=("ann", "correct horse")) as ann,
        certified.client(auth=("ann", "wrong"), headers=guesser) as wrong,
    ):
        for path in ("/hosts", "/secrets/", "/access/users/"):
            answer = ann.get(API + path)
            assert answer.status_code == 200, answer.text
            assert certified.line(answer)["principal"] == "user:ann"
            assert wrong.get(API + path).status_code == 403
    eventually(lambda: certified.guesses("192.0.2.77") == 3)
    with certified.client() as nobody:
        assert nobody.get(API + "/hosts").status_code == 401
        assert 'Basic realm="strongroom", charset="UTF-8"' in nobody.get(API + "/hosts").headers.get_list(
            "www-authenticate"
        )


def test_two_credentials_are_refused_on_every_route(certified: Certified) -> None:
    """A password beside an API key: nobody guesses which is meant."""
    with certified.client(auth=("ann", "correct horse"), headers=certified.own) as both:
        assert {both.get(API + path).status_code for path in ("/hosts", "/secrets/", "/access/users/")} == {403}


def test_a_verified_certificate_is_its_holder(certified: Certified) -> None:
    """By a URI, or by its fingerprint; what its holder may do, rules say; another's is nobody."""
    runner = issue("runner", certified.authority, uris=(URI,))
    stranger = issue("stranger", certified.authority, uris=("spiffe://example.net/stranger",))
    with certified.client(runner) as client:
        for path in ("/hosts", "/secrets/"):
            answer = client.get(API + path)
            assert (answer.status_code, certified.line(answer)["principal"]) == (403, "service:runner")
    with certified.client(stranger) as client:
        assert {client.get(API + path).status_code for path in ("/hosts", "/secrets/")} == {401}

    known = {"credentials": [{"kind": "certificate", "data": f"SHA256:{stranger.fingerprint}"}]}
    certified.on_socket("PUT", "/access/services/walker", known)
    with certified.client(stranger) as client:
        answer = client.get(API + "/secrets/")
        assert certified.line(answer)["principal"] == "service:walker"


def test_no_field_of_a_clients_passes_for_a_certificate(certified: Certified) -> None:
    """Whatever a client writes about a certificate is dropped, with one of another's and without any."""
    said = {wire.CERTIFICATE_HEADER: URI}
    other = issue("other", certified.authority)
    for shown in (None, other):
        with certified.client(shown, headers=said) as client:
            for path in ("/hosts", "/secrets/", "/access/users/"):
                assert client.get(API + path).status_code == 401


def test_a_certificate_of_another_authority_does_not_come_in(certified: Certified) -> None:
    """The TLS library refuses it, whatever names it has."""
    forged = issue("runner", issue("Test CA", authority=True), uris=(URI,))
    with certified.client(forged) as client, pytest.raises((httpx.TransportError, http.client.HTTPException)):
        client.get(API + "/hosts")


def test_beside_a_certificate_what_is_shown_counts(certified: Certified) -> None:
    """A password is who asks; the certificate is the gate that lets it come here."""
    runner = issue("runner", certified.authority, uris=(URI,))
    with certified.client(runner, auth=("ann", "correct horse")) as client:
        for path in ("/hosts", "/secrets/"):
            answer = client.get(API + path)
            assert (answer.status_code, certified.line(answer)["principal"]) == (200, "user:ann")


def test_the_address_is_what_the_counted_proxy_says(certified: Certified) -> None:
    """Of X-Forwarded-For the last address counts, whatever a client wrote before it; on every route."""
    with certified.client(auth=("ann", "correct horse"), headers={"x-forwarded-for": "10.0.0.1, 192.0.2.9"}) as ann:
        for path in ("/hosts", "/secrets/"):
            assert certified.line(ann.get(API + path))["from"] == "192.0.2.9"


def test_every_answer_tells_browsers_what_it_is_not(certified: Certified) -> None:
    """Over TLS each answer of the proxy, whoever makes it, is no page, is framed nowhere, and asks for TLS."""
    with certified.client() as client, certified.client(headers=certified.own) as known:
        answers = [client.get("/livez"), client.get(API + "/hosts"), client.get("/%zz"), known.get(API + "/secrets/")]

    assert [answer.status_code for answer in answers] == [200, 401, 400, 200]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_trace_goes_with_every_request(certified: Certified) -> None:
    """Records, secrets and what the proxy refuses itself: the audit log tells which trace each was part of."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    field = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with certified.client(headers=certified.own | field) as known, certified.client(headers=field) as stranger:
        answers = [known.get(API + "/hosts"), known.get(API + "/secrets/")]
        refused = stranger.get(API + "/hosts", headers={"X-Forwarded-For": "192.0.2.78"})

    assert [certified.line(answer)["trace"] for answer in answers] == [trace, trace]
    eventually(lambda: certified.guesses("192.0.2.78") == 1)
    assert certified.line(refused)["trace"] == trace
