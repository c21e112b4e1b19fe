"""What errors tell a program that uses the library: the class, the record, the request, and what its page says."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strongroom
from strongroom import (
    Exists,
    Host,
    HostCreds,
    InvalidName,
    NotFound,
    NotListening,
    ServiceError,
    StorageClient,
    StrongroomError,
)
from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service import errors, wire
from strongroom.storage_service.client.bulk_operations import Write
from strongroom.storage_service.errors import ConfigurationError
from tests.audit_lines import audit_lines

PAGE = Path(__file__).parents[2] / "docs" / "client-library.md"

MISSING: dict[str, tuple[Callable[[StorageClient], object], str]] = {
    "a record": (lambda client: client.get(Host, "10.9.9.9"), "hosts/10.9.9.9"),
    "a secret record": (lambda client: client.delete(HostCreds, "10.9.9.9"), "secrets/hosts/10.9.9.9"),
    "a secret": (lambda client: client.get_secret("nowhere/at", "all"), "secrets/nowhere/at/all"),
    "a container": (lambda client: client.list_container("nowhere"), "secrets/nowhere/"),
    "an edit": (lambda client: client.edit(Host, "10.9.9.9").__enter__(), "hosts/10.9.9.9"),
}


@pytest.mark.parametrize("story", MISSING)
def test_an_error_leads_to_its_line_in_the_audit_log(
    strongroom_server: Server, strongroom: StorageClient, story: str
) -> None:
    """It has the record's name and the request's id, as attributes and in its text; the audit log knows the id."""
    act, name = MISSING[story]
    with pytest.raises(NotFound) as caught:
        act(strongroom)

    error = caught.value
    assert error.name == name
    assert str(error) == f"{error.text} ({name}, request {error.request_id})"
    lines = audit_lines(strongroom_server.home / "log" / "audit.log")
    assert name in {line["name"] for line in lines if line["request"] == error.request_id}


def test_a_request_is_part_of_the_trace_of_its_moment(strongroom_server: Server) -> None:
    """The client asks for the trace before each request; what is no trace, and none, are left out."""
    traces = [f"{number:032x}" for number in (7, 8)]
    moments = iter([*(f"00-{trace}-b7ad6b7169203331-01" for trace in traces), "nonsense", None])
    requests = []
    with StorageClient.from_home(strongroom_server.home, trace=lambda: next(moments)) as client:
        for _ in range(4):
            with pytest.raises(NotFound) as caught:
                client.get(Host, "10.9.9.8")
            requests.append(caught.value.request_id)

    lines = {line["request"]: line.get("trace") for line in audit_lines(strongroom_server.home / "log" / "audit.log")}
    assert [lines[request] for request in requests] == [*traces, None, None]


def test_an_answer_that_never_came_has_a_request_all_the_same(tmp_path: Path) -> None:
    """Where nobody listens, too, the text says for what and in which request."""
    client = StorageClient(socket=tmp_path / "s", api_id="a", api_key="k", retries=0)
    with pytest.raises(NotListening) as caught:
        client.save(Host(address="10.0.0.7"))

    assert (caught.value.name, len(caught.value.request_id)) == ("hosts/10.0.0.7", 24)
    assert str(caught.value).endswith(f"(hosts/10.0.0.7, request {caught.value.request_id})")


def test_a_batch_is_told_by_what_its_names_begin_with(tmp_path: Path) -> None:
    """No list of a thousand names stands in an error's text."""
    client = StorageClient(socket=tmp_path / "s", api_id="a", api_key="k", retries=0)
    with pytest.raises(NotListening) as caught:
        client.get_many(HostCreds, ["10.0.0.7", "10.0.0.8"])

    assert caught.value.name == "secrets/hosts/"


def test_advice_speaks_of_arguments(strongroom: StorageClient) -> None:
    """A secret that exists is replaced by passing an etag: no header field is spoken of."""
    strongroom.create_container("spoken")
    strongroom.set_secret("spoken", "a", "1", etag=None)
    with pytest.raises(Exists, match="pass the etag") as caught:
        strongroom.set_secret("spoken", "a", "2")

    assert "If-" not in str(caught.value)


BAD: dict[str, Callable[[StorageClient], object]] = {
    "get": lambda client: client.get(Host, "a/b"),
    "get of nothing": lambda client: client.get(Host, ""),
    "get_many": lambda client: client.get_many(HostCreds, ["10.0.0.7", ".."]),
    "get_texts": lambda client: client.get_texts(Host, ["ü"]),
    "save": lambda client: client.save(Host(address="a b")),
    "save_many": lambda client: client.save_many([Host(address="a"), Host(address="%2e")]),
    "delete": lambda client: client.delete(Host, "a/"),
    "delete_many": lambda client: client.delete_many(Host, ["\0"]),
    "check_may": lambda client: client.check_may("put", Host, "a?b"),
    "get_secret": lambda client: client.get_secret("db", "a/b"),
    "get_secrets": lambda client: client.get_secrets(["db/a", "db//b"]),
    "set_secret": lambda client: client.set_secret("..", "a", "b"),
    "delete_secret": lambda client: client.delete_secret("db", ""),
    "create_container": lambda client: client.create_container("a b"),
    "list_container": lambda client: client.list_container(""),
    "delete_container": lambda client: client.delete_container("/"),
    "create_apikey": lambda client: client.create_apikey("a/b"),
    "revoke_apikey": lambda client: client.revoke_apikey("a/b"),
    "read_bulk": lambda client: client.read_bulk(["secrets/../a"]),
    "commit_bulk": lambda client: client.commit_bulk([Write("secrets/a b", strongroom.Secret("c"))]),
}


@pytest.mark.parametrize("story", BAD)
def test_a_bad_name_is_one_class_everywhere(tmp_path: Path, story: str) -> None:
    """Whatever is asked, and of what, it is InvalidName, before anything is sent."""
    with pytest.raises(InvalidName):
        BAD[story](StorageClient(socket=tmp_path / "s", api_id="a", api_key="k", retries=0))


def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Yield *kind* and every class below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from leaves(below)


def test_every_error_is_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the library raises is a StrongroomError: what a service answers, a bad name, and a bad address."""
    for variable in ("STRONGROOM_HOME", "STRONGROOM_SOCKET", "STRONGROOM_URL"):
        monkeypatch.delenv(variable, raising=False)
    for made in (StorageClient.from_environment, lambda: StorageClient.from_home(tmp_path)):
        with pytest.raises(ConfigurationError):
            made()
    assert all(issubclass(kind, StrongroomError) for kind in (ConfigurationError, InvalidName, ServiceError))
    assert {row.error for row in wire.PROBLEMS.values()} <= set(leaves(ServiceError))


def test_the_page_has_every_error_and_no_other() -> None:
    """Its table is held to the classes: all that cross the wire, all that are of no answer; each can be imported."""
    text = PAGE.read_text()
    table = text[text.index("| error | what to do |") : text.index("A name that breaks the grammar")]
    told = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]

    raised = {row.error for row in wire.PROBLEMS.values()} | set(leaves(errors.Unavailable))
    raised -= {errors.StoreFails}  # within the service: a client hears Unavailable
    assert sorted(told) == sorted({kind.__name__ for kind in raised} | {"ConfigurationError", "InvalidName"})
    module: Any = strongroom
    for name in told:
        assert getattr(module, name).__name__ == name
        assert name in strongroom.__all__


def test_who_passes_an_error_on_tells_its_text_alone() -> None:
    """The proxy's problem has neither the name nor the id of its own question: nothing in it comes from a request."""
    error = NotFound("there is no such host")
    error.name, error.request_id = "hosts/10.9.9.9", "inner-request"
    said = wire.problem_body(error, "outer-request")

    assert json.loads(said)["detail"] == "there is no such host"
    assert b"10.9.9.9" not in said and b"inner" not in said
