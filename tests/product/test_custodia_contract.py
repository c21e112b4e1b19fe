"""Custodia's contract for secrets, on the socket and through the proxy (each row seen running on 0.6.0)."""

import base64
import json
import secrets
from typing import Any

import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from tests.product.conftest import Face

JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream"}
MESSAGE = '{"type":"simple","value":"s3cret"}'


def test_a_secret_goes_in_and_comes_back(face: Face, container: str) -> None:
    """PUT answers 201, GET the message, with a tag and with no permission to store it."""
    assert face.put(f"/{container}/key", "s3cret").status_code == 201

    answer = face.ask("GET", f"/{container}/key")

    assert answer.status_code == 200
    assert answer.json() == {"type": "simple", "value": "s3cret"}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["etag"].strip('"').isdigit()


def test_bytes_go_in_and_come_back(face: Face, container: str) -> None:
    """Octets are answered as they were sent, and as base64 in a message."""
    sent = bytes(range(256))
    assert face.ask("PUT", f"/{container}/raw", headers=OCTETS, content=sent).status_code == 201

    raw = face.ask("GET", f"/{container}/raw", headers={"Accept": "application/octet-stream"})
    message = face.ask("GET", f"/{container}/raw", headers={"Accept": "application/json"})

    assert raw.content == sent
    assert raw.headers["content-type"] == "application/octet-stream"
    assert base64.b64decode(message.json()["value"]) == sent


@pytest.mark.parametrize("path", ["", "/"])
def test_containers_are_found_from_the_root(face: Face, container: str, strongroom: StorageClient, path: str) -> None:
    """GET of the root lists the containers that lie in no other, or the outermost that a key may list; else 403."""
    face.put(f"/{container}/key", "s3cret")
    face.ask("POST", f"/{container}/inner/")
    answer = face.ask("GET", path)

    assert answer.status_code == 200
    found = [name for name in answer.json() if name.startswith(container)]
    assert found == [f"{container}/"]
    assert found[0] in strongroom.list_containers()
    for reach, told in (
        ("/secrets", found),
        ("/secrets/", found),
        (f"/secrets/{container}", found),
        (f"/secrets/{container}/inner", [f"{container}/inner/"]),
        (f"/secrets/{container}/none", []),
        (f"/secrets/{container}/key.", None),
        ("/secrets.", None),
        ("/hosts", None),
    ):
        key = strongroom.create_apikey(f"root-{secrets.token_hex(4)}", paths=[reach], actions=["list"])
        own = {wire.ID_HEADER: key.api_id, wire.KEY_HEADER: key.api_key.reveal()}
        answer = face.ask("GET", path, headers=own)
        assert answer.status_code == (403 if told is None else 200)
        assert told is None or [name for name in answer.json() if name.startswith(container)] == told
    key = strongroom.create_apikey(f"root-{secrets.token_hex(4)}", paths=["/secrets"], actions=["get", "put", "delete"])
    own = {wire.ID_HEADER: key.api_id, wire.KEY_HEADER: key.api_key.reveal()}
    assert face.ask("GET", path, headers=own).status_code == 403


def test_a_listing_comes_in_pages(face: Face, container: str) -> None:
    """With a limit a listing ends there; what comes after its last name is the next page, and a short one the last."""
    for name in ("a", "b+c", "d"):
        face.put(f"/{container}/{name}", "s3cret")
    face.ask("POST", f"/{container}/b/")

    def page(query: str) -> Any:
        return face.ask("GET", f"/{container}/?{query}").json()

    assert page("limit=2") == ["a", "b+c"]
    assert page("limit=2&after=b%2Bc") == ["b/", "d"]
    assert page("limit=2&after=d") == []
    assert page("limit=1000&after=b~&type=simple") == ["d"]
    tops = face.ask("GET", f"/?limit=1&after={container[:-1]}").json()
    assert len(tops) == 1
    assert face.ask("GET", f"/?limit=1000&after={container}").json()[0] == f"{container}/"
    assert f"{container}/" not in face.ask("GET", f"/?limit=1000&after={container}/").json()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *((f"limit={limit}", 400) for limit in ("", "0", "1001", "-1", "x", "1&limit=2", "%D9%A1")),
        *(
            ("limit=1&after=a&after=b", 400),
            ("limit=1&after=%00", 400),
            ("limit=1&after=%C3%BC", 400),
        ),
        *((f"limit=1&after={'a' * 513}", 400), ("limit=1&type=kem", 406), ("page=1", 406)),
    ],
)
def test_a_page_that_there_cannot_be_is_refused(face: Face, container: str, query: str, status: int) -> None:
    """Of limits and beginnings each is said once, and in its bounds; nothing else is taken for them."""
    face.put(f"/{container}/a", "s3cret")
    assert face.ask("GET", f"/{container}/?{query}").status_code == status
    assert face.ask("GET", f"/{container}/a?limit=1").status_code == 400


def test_a_page_that_begins_somewhere_has_the_most_that_one_may(face: Face, container: str) -> None:
    """Who says only what it begins after is given a page of the largest size."""
    face.put(f"/{container}/a", "s3cret")
    face.put(f"/{container}/b", "s3cret")
    assert face.ask("GET", f"/{container}/?after=a").json() == ["b"]


def test_no_page_of_a_container_that_there_is_not(face: Face, container: str) -> None:
    """Whatever it is to begin after, a container that does not exist has no pages."""
    for after in ("", "x"):
        assert face.ask("GET", f"/{container}-none/?limit=9&after={after}").status_code == 404


@pytest.mark.parametrize("value", ["ü 漢字 🔑", " ", "\x00\x01", '"}{', "a" * wire.MAX_SECRET])
def test_every_text_is_a_secret(face: Face, container: str, value: str) -> None:
    """Any Unicode text up to the limit comes back as it was."""
    assert face.put(f"/{container}/text", value).status_code == 201

    assert face.ask("GET", f"/{container}/text").json()["value"] == value


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status", "code"),
    [
        ("GET", "/{c}/missing", {}, None, 404, "not-found"),
        ("GET", "/nowhere/key", {}, None, 404, "not-found"),
        ("GET", "/nowhere/", {}, None, 404, "not-found"),
        ("GET", "/top", {}, None, 403, "denied"),
        ("GET", "/{c}/key?type=kem", {}, None, 406, "not-acceptable"),
        ("GET", "/{c}/key?type=simple&type=simple", {}, None, 406, "not-acceptable"),
        ("GET", "/{c}/key?" + "&".join(f"a{number}=b" for number in range(17)), {}, None, 406, "not-acceptable"),
        ("GET", "/{c}/key?" + "&".join(["a=b"] * 17), {}, None, 406, "not-acceptable"),
        ("GET", "/{c}/key?" + "&" * 3000, {}, None, 406, "not-acceptable"),
        ("GET", "/{c}/text", {"Accept": "application/octet-stream"}, None, 406, "not-acceptable"),
        ("PUT", "/{c}/key", JSON, MESSAGE, 409, "exists"),
        ("PUT", "/nowhere/key", JSON, MESSAGE, 404, "no-container"),
        ("PUT", "/top", JSON, MESSAGE, 403, "denied"),
        ("PUT", "/{c}/", JSON, MESSAGE, 405, "method-not-allowed"),
        ("PUT", "", JSON, MESSAGE, 405, "method-not-allowed"),
        ("PUT", "/{c}/new", {}, MESSAGE, 400, "invalid"),
        ("PUT", "/{c}/new", {"Content-Type": "text/plain"}, MESSAGE, 400, "invalid"),
        ("PUT", "/{c}/new", JSON, "", 400, "invalid"),
        ("PUT", "/{c}/new", JSON, "garbage", 400, "invalid"),
        ("PUT", "/{c}/new", JSON, b"\xff\xfe", 400, "invalid"),
        ("PUT", "/{c}/new", JSON, "[]", 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple"}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"value":"x"}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":7}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":null}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":""}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":"\\ud800"}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":"a","value":"b"}', 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"simple","value":' + "[" * 40 + "]" * 40 + "}", 400, "invalid"),
        ("PUT", "/{c}/new", JSON, "[" * 100_000, 400, "invalid"),
        ("PUT", "/{c}/new", JSON, '{"type":"zzz","value":"x"}', 406, "not-acceptable"),
        ("PUT", "/{c}/new", JSON, '{"type":"kem","value":"x"}', 406, "not-acceptable"),
        ("PUT", "/{c}/new", OCTETS, b"", 400, "invalid"),
        ("PUT", "/{c}/new", OCTETS, b"x" * (wire.MAX_SECRET + 1), 413, "too-large"),
        ("PUT", "/{c}/new", OCTETS, b"x" * (wire.MAX_BODY + 1), 413, "too-large"),
        ("PUT", "/{c}/new", {**JSON, "If-Match": '"1"'}, MESSAGE, 412, "changed"),
        ("PUT", "/{c}/new", {**JSON, "If-Match": "*"}, MESSAGE, 412, "changed"),
        ("PUT", "/{c}/new", {**JSON, "If-Match": "W/x"}, MESSAGE, 400, "invalid"),
        ("PUT", "/{c}/new", {**JSON, "If-Match": "*", "If-None-Match": "*"}, MESSAGE, 412, "changed"),
        ("DELETE", "/{c}/missing", {}, None, 404, "not-found"),
        ("DELETE", "/nowhere/", {}, None, 404, "not-found"),
        ("DELETE", "/{c}/", {}, None, 409, "not-empty"),
        ("DELETE", "", {}, None, 405, "method-not-allowed"),
        ("DELETE", "/{c}/key", {"If-Match": '"1"'}, None, 412, "changed"),
        ("POST", "/{c}", {}, None, 405, "method-not-allowed"),
        ("POST", "/nowhere/sub/", {}, None, 404, "no-container"),
        ("POST", "/{c}/sub/", JSON, "garbage", 406, "not-acceptable"),
        ("POST", "/?batch=get", JSON, "[]", 400, "invalid"),
        ("POST", "/?batch=get", JSON, '{"names":["top"]}', 403, "denied"),
        ("POST", "/?batch=get", JSON, '{"names":["a/../b"]}', 400, "invalid"),
        ("POST", "/?batch=get", JSON, '{"names":["nowhere/","a/b"]}', 400, "invalid"),
        ("POST", "/?batch=get", JSON, json.dumps({"names": ["a/b"] * 1001}), 400, "invalid"),
        ("PATCH", "/{c}/key", {}, None, 501, "not-implemented"),
    ],
)
def test_refusals(
    face: Face,
    container: str,
    method: str,
    path: str,
    headers: dict[str, str],
    content: bytes | str | None,
    status: int,
    code: str,
) -> None:
    """Each misuse has its status and its problem type, and what was there stays as it was."""
    face.put(f"/{container}/key", "kept")
    face.put(f"/{container}/text", "not base64!")

    answer = face.ask(method, path.format(c=container), headers=headers, content=content)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["type"] == f"urn:strongroom:problem:{code}"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert face.ask("GET", f"/{container}/").json() == ["key", "text"]
    assert face.ask("GET", f"/{container}/key").json()["value"] == "kept"


def test_a_batch_tells_of_no_container(face: Face, container: str) -> None:
    """What may be read is not listed by it: the name of a container is refused, whether there is one or not."""
    answers = [
        face.ask("POST", "/?batch=get", headers=JSON, content=json.dumps({"names": [name]}))
        for name in (f"{container}/", "nowhere/")
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_a_conflict_says_how_to_replace(face: Face, container: str) -> None:
    """Where If-Match replaces what is there, the refusal says so, and nowhere else."""
    face.put(f"/{container}/key", "one")

    put = face.put(f"/{container}/key", "two").json()
    assert (put["title"], put["detail"]) == (
        "It exists already",
        "the secret exists already; send If-Match to replace it",
    )
    stale = face.put(f"/{container}/key", "two", **{"If-Match": '"1"'}).json()
    assert stale["detail"] == "the secret is not at the revision that was expected"


@pytest.mark.parametrize(
    "path",
    [
        "/{c}/../{c}/key",
        "/{c}/./key",
        "//{c}/key",
        "/{c}//key",
        "/{c}/%2e%2e/key",
        "/{c}%2fkey",
        "/{c}/ke%79%00",
        "/{c}/k\\ey",
        "/{c}/k%5cey",
        "/{c}/%ff",
        "/{c}/a b",
        "/{c}/" + "k" * 512,
    ],
)
def test_ambiguous_paths_are_refused(face: Face, container: str, path: str) -> None:
    """A path that two readers could read as two is 400, whatever lies behind it."""
    face.put(f"/{container}/key", "kept")
    target = (face.secrets + path.format(c=container)).replace(" ", "%20").encode()

    # As it stands: the client would tidy the path up before it sent it.
    answer = face.client.get("/", headers=face.credentials, extensions={"target": target})

    assert answer.status_code == 400
    assert "kept" not in answer.text


def test_replacing_needs_the_tag(face: Face, container: str) -> None:
    """With If-Match a PUT replaces what stands at that tag, and not what has changed since."""
    first = face.put(f"/{container}/key", "one").headers["etag"]
    second = face.put(f"/{container}/key", "two", **{"If-Match": first})
    late = face.put(f"/{container}/key", "three", **{"If-Match": first})
    any_tag = face.put(f"/{container}/key", "four", **{"If-Match": "*"})

    assert [second.status_code, late.status_code, any_tag.status_code] == [200, 412, 200]
    assert face.ask("GET", f"/{container}/key").json()["value"] == "four"


def test_a_known_tag_is_not_sent_again(face: Face, container: str) -> None:
    """If-None-Match with the current tag is 304 without the secret."""
    etag = face.put(f"/{container}/key", "one").headers["etag"]

    answer = face.ask("GET", f"/{container}/key", headers={"If-None-Match": etag})

    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


def test_deleting_twice(face: Face, container: str) -> None:
    """A secret is deleted once; the second time it is not there."""
    face.put(f"/{container}/key", "gone")

    answers = [face.ask("DELETE", f"/{container}/key").status_code for _ in range(2)]

    assert answers == [204, 404]


def test_containers(face: Face, container: str) -> None:
    """Containers are made once, nest, are listed with what is in them, and go when they are empty."""
    assert face.ask("POST", f"/{container}/").status_code == 200
    assert face.ask("POST", f"/{container}/sub/").status_code == 201
    face.put(f"/{container}/sub/x", "1")
    face.put(f"/{container}/b", "2")

    listed = face.ask("GET", f"/{container}/")
    full = face.ask("DELETE", f"/{container}/sub/").status_code
    face.ask("DELETE", f"/{container}/sub/x")

    assert listed.json() == ["b", "sub/", "sub/x"]
    assert full == 409
    assert face.ask("DELETE", f"/{container}/sub/").status_code == 204
    assert face.ask("GET", f"/{container}/").json() == ["b"]


def test_a_batch_is_read_at_once(face: Face, container: str) -> None:
    """A batch get answers every name asked, null for what is not there."""
    face.put(f"/{container}/a", "1")
    face.put(f"/{container}/b", "2")
    names = [f"{container}/a", f"{container}/none", f"{container}/b"]

    answer = face.ask("POST", "/?batch=get", headers=JSON, content=json.dumps({"names": names}))

    assert answer.status_code == 200
    assert answer.json() == {
        f"{container}/a": {"type": "simple", "value": "1"},
        f"{container}/none": None,
        f"{container}/b": {"type": "simple", "value": "2"},
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"REMOTE_USER": "commissaire"}, 401),
        ({"REMOTE-USER": "root", "CUSTODIA-CERT-AUTH": "true"}, 401),
        ({"CUSTODIA-AUTH-ID": "storage_service"}, 403),
        ({"CUSTODIA-AUTH-KEY": "{key}"}, 403),
        ({"CUSTODIA-AUTH-ID": "storage_service", "CUSTODIA-AUTH-KEY": "wrong"}, 403),
        ({"CUSTODIA-AUTH-ID": "nobody", "CUSTODIA-AUTH-KEY": "{key}"}, 403),
        ({"CUSTODIA-AUTH-ID": "storage_service", "CUSTODIA-AUTH-KEY": "{key}"}, 200),
        ({"CUSTODIA_AUTH_ID": "storage_service", "CUSTODIA_AUTH_KEY": "{key}"}, 200),
        ({"CUSTODIA_AUTH_ID": "storage_service", "CUSTODIA_KEY_ID": "{key}"}, 200),
        ({"CUSTODIA-AUTH-ID": "storage_service", "CUSTODIA-KEY-ID": "{key}"}, 200),
        ({"CUSTODIA-AUTH-ID": "storage_service", "CUSTODIA_AUTH_ID": "x", "CUSTODIA-AUTH-KEY": "{key}"}, 400),
        ({"CUSTODIA-AUTH-ID": "storage_service", "CUSTODIA-AUTH-KEY": "{key}", "CUSTODIA_KEY_ID": "{key}"}, 400),
    ],
)
def test_credentials(face: Face, container: str, headers: dict[str, str], status: int) -> None:
    """Without credentials 401, with wrong ones 403, in every right spelling 200, in two at once 400."""
    face.put(f"/{container}/key", "kept")
    key = face.credentials[wire.KEY_HEADER]

    answer = face.client.get(
        f"{face.secrets}/{container}/key", headers={name: value.format(key=key) for name, value in headers.items()}
    )

    assert answer.status_code == status
    assert ("kept" in answer.text) is (status == 200)
