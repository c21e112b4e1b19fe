"""Where the service is and who asks, from arguments, a home and the environment."""

import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service import variables
from strongroom.storage_service.client import AsyncStorageClient, StorageClient
from strongroom.storage_service.client.address import Address, Caller, read_environment, read_home
from strongroom.storage_service.errors import ConfigurationError, NoCredentials, NotImplementedHere

CANARY = "cAnArY-51e7"


def home_at(path: Path, mode: int = 0o600, **changes: object) -> Path:
    """Write a client.json as ``strongroom up`` writes it, with *changes*, and return its directory."""
    said = {"url": "http://127.0.0.1:8000", "socket": "/run/s.sock", "api_id": "local", "api_key": CANARY} | changes
    file = path / "client.json"
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    file.chmod(mode)
    return path


def test_a_home_says_socket_id_and_key(tmp_path: Path) -> None:
    """The socket is preferred to the url."""
    address, caller = read_home(home_at(tmp_path))

    assert address == Address(socket=Path("/run/s.sock"))
    assert (caller.api_id, caller.api_key) == ("local", Secret(CANARY))


def test_a_home_without_a_socket_is_called_by_its_url(tmp_path: Path) -> None:
    """A client.json taken to another machine names the proxy alone."""
    assert read_home(home_at(tmp_path, socket=None))[0] == Address(url="http://127.0.0.1:8000")


def test_a_relative_socket_lies_in_the_home(tmp_path: Path) -> None:
    """A home can be moved."""
    assert read_home(home_at(tmp_path, socket="run/s.sock"))[0] == Address(socket=tmp_path / "run/s.sock")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Who could read the file has the key; the message says what to do, and not the key."""
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read_home(home_at(tmp_path, mode))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"api_key": None}, {"api_key": 7}, {"colour": "red"}, {"socket": None, "url": None}, {"api_key": "a\nb"}],
    ids=["no key", "no text", "unknown member", "no address", "line break in the key"],
)
def test_a_file_that_is_no_client_file_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    """Missing, wrong and unknown members are errors that quote nothing of the file."""
    with pytest.raises(ConfigurationError) as caught:
        read_home(home_at(tmp_path, 0o600, **changes))
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_home_that_is_none_is_refused(tmp_path: Path) -> None:
    """The message names the file that is missing, what makes one, and to who said variables what may replace it."""
    missing = f"there is no {tmp_path}/client.json, which a service makes in its home"
    with pytest.raises(ConfigurationError) as caught:
        read_home(tmp_path)
    assert str(caught.value) == missing
    assert caught.value.next == (Step("to start one", "up", {"home": str(tmp_path)}),)

    with pytest.raises(ConfigurationError) as caught:
        read_environment({"STRONGROOM_HOME": str(tmp_path)})
    assert str(caught.value) == (
        f"{missing}; where there is no home, set STRONGROOM_SOCKET (or _URL), STRONGROOM_API_ID and STRONGROOM_API_KEY"
    )


OWN = ("SOCKET", "URL", "API_ID", "API_KEY", "HOME", "CLIENT")  # variables
SOCKET = {"STRONGROOM_SOCKET": "/run/s.sock"}
KEY = {"STRONGROOM_API_ID": "ci", "STRONGROOM_API_KEY": "k"}


def test_the_environment_names_a_home(tmp_path: Path) -> None:
    """STRONGROOM_HOME alone is enough."""
    address, caller = read_environment({"STRONGROOM_HOME": str(home_at(tmp_path))})

    assert (str(address), caller.api_id) == ("/run/s.sock", "local")


def test_the_environment_wins_over_the_home(tmp_path: Path) -> None:
    """What is said directly replaces what the home says, part by part."""
    home = {"STRONGROOM_HOME": str(home_at(tmp_path))}

    assert read_environment(home | KEY)[1].api_id == "ci"
    assert str(read_environment(home | KEY | {"STRONGROOM_URL": "http://h:1"})[0]) == "http://h:1"
    assert str(read_environment(home | {"STRONGROOM_URL": "HTTP://127.0.0.1:8000/"})[0]) == "HTTP://127.0.0.1:8000/"
    assert read_environment(home | SOCKET)[1].api_id == "local"


@pytest.mark.parametrize("named", ["HOME", "CLIENT"])
@pytest.mark.parametrize(
    "where",
    [
        {"SOCKET": "/x"},
        {"SOCKET": "/run/s.sock/../t.sock"},
        {"URL": "http://h:1"},
        {"URL": "http://127.0.0.1"},
        {"URL": "https://127.0.0.1:8000"},
        {"URL": "http://127.0.0.1:8000/other"},
    ],
    ids=str,
)
def test_a_key_of_a_home_is_for_the_addresses_that_it_names(tmp_path: Path, where: dict[str, str], named: str) -> None:
    """Whoever says another address is told so, and what to do; a key that is said goes there."""
    home = home_at(tmp_path)
    said = {f"STRONGROOM_{name}": value for name, value in where.items()}
    said[f"STRONGROOM_{named}"] = str(home if named == "HOME" else home / "client.json")

    with pytest.raises(NoCredentials) as caught:
        read_environment(said)
    assert f"{home}/client.json is for the addresses that this file names, and " in str(caught.value)
    assert "set STRONGROOM_API_ID and STRONGROOM_API_KEY" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert read_environment(said | KEY)[1].api_id == "ci"


def test_a_home_that_names_one_address_lends_its_key_to_no_other(tmp_path: Path) -> None:
    """A client.json with a url alone is for no socket, and one with a socket alone for no url."""
    home_at(tmp_path, socket=None)
    with pytest.raises(NoCredentials):
        read_environment({"STRONGROOM_HOME": str(tmp_path)} | SOCKET)
    home_at(tmp_path, url=None)
    with pytest.raises(NoCredentials):
        read_environment({"STRONGROOM_HOME": str(tmp_path), "STRONGROOM_URL": "http://127.0.0.1:8000"})


@pytest.mark.parametrize("where", [SOCKET, {"STRONGROOM_URL": "http://h:1"}])
@pytest.mark.parametrize("home", ["HOME", "CLIENT", "HOME_FILE"])
def test_what_is_said_directly_needs_no_home(where: dict[str, str], home: str) -> None:
    """Where address and API key are said, nobody looks for the home that is said as well."""
    address, caller = read_environment(where | KEY | {f"STRONGROOM_{home}": "/nonexistent"})

    assert (str(address), caller.api_id) == (next(iter(where.values())), "ci")


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "set STRONGROOM_HOME, or STRONGROOM_SOCKET"),
        (SOCKET, "no API key is given: set STRONGROOM_API_ID and STRONGROOM_API_KEY, or STRONGROOM_HOME"),
        (KEY, "the service's address is not given: set STRONGROOM_SOCKET or STRONGROOM_URL, or STRONGROOM_HOME"),
        (SOCKET | {"STRONGROOM_API_ID": "ci"}, "STRONGROOM_API_ID is set without STRONGROOM_API_KEY"),
        (
            {"STRONGROOM_API_KEY": CANARY, "STRONGROOM_HOME": "/nonexistent"},
            "STRONGROOM_API_KEY is set without STRONGROOM_API_ID",
        ),
    ],
)
def test_what_is_missing_is_named(environ: dict[str, str], text: str) -> None:
    """The message tells the variables that are to be set, not others that are set or of no use; and no value."""
    with pytest.raises(ConfigurationError) as caught:
        read_environment(environ)
    assert text in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("API_KEYFILE", "API_KEY_FILE"), ("SOCKETS", "SOCKET"), ("CLENT", "CLIENT"), ("CAS", "CA"), ("API-ID", "API_ID")],
)
def test_a_variable_that_means_nothing_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    """As by every command: what it was meant for would be said by another place, silently; its value is not told."""
    home = {"STRONGROOM_HOME": str(home_at(tmp_path))}

    with pytest.raises(ConfigurationError) as caught:
        read_environment(home | {f"STRONGROOM_{name}": CANARY})
    assert str(caught.value) == f"STRONGROOM_{name}: there is no such variable; did you mean STRONGROOM_{meant}?"
    assert read_environment(home | {f"STRONGROOM_{name}": ""})[1].api_id == "local"


def test_what_is_said_to_the_service_is_let_alone(tmp_path: Path) -> None:
    """A program whose environment has every setting of the service, or what a container is told, has a client."""
    of_others = variables.KNOWN - {f"{name}{end}" for name in (*OWN, "CA") for end in ("", "_FILE")}
    there = {f"STRONGROOM_{name}": "x" for name in of_others}
    there |= {"STRONGROOM_PORT": "tcp://10.0.0.1:8000", "STRONGROOM_SERVICE_HOST": "10.0.0.1", "STRONGROOMS": "x"}
    assert len(of_others) > 50

    assert read_environment(there | SOCKET | KEY) == read_environment(SOCKET | KEY)
    filled = {"STRONGROOM_STORAGE_CONF": "storage.conf", "STRONGROOM_MY_OWN_PLACEHOLDER": "x"}
    assert read_environment(filled | SOCKET | KEY) == read_environment(SOCKET | KEY)


def test_the_environment_names_a_client_file(tmp_path: Path) -> None:
    """STRONGROOM_CLIENT is a client.json that lies elsewhere, as in a container; a relative one is a home's."""
    file = home_at(tmp_path) / "client.json"

    assert read_environment({"STRONGROOM_CLIENT": str(file)})[1].api_id == "local"
    assert read_environment({"STRONGROOM_CLIENT": str(file), "STRONGROOM_HOME": "/nowhere"})[1].api_id == "local"
    assert read_environment({"STRONGROOM_CLIENT": "client.json", "STRONGROOM_HOME": str(tmp_path)})[1].api_id == "local"
    assert str(read_environment({"STRONGROOM_CLIENT": str(file)} | SOCKET)[0]) == "/run/s.sock"


@pytest.mark.parametrize(("mode", "owner", "taken"), [(0o440, 0, True), (0o440, 1, False), (0o640, 0, False)])
def test_a_file_that_root_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, taken: bool
) -> None:
    """One of root's that a group may read is taken, as Kubernetes lays it, through its links; nobody else's is."""
    folder = tmp_path / "..2026_11_30"
    folder.mkdir()
    home_at(folder, mode)
    (tmp_path / "..data").symlink_to(folder.name)
    (tmp_path / "client.json").symlink_to("..data/client.json")
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor)[:10])
        fields[4] = owner
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    if taken:
        assert read_home(tmp_path)[1].api_id == "local"
    else:
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_home(tmp_path)


def test_the_environment_names_files(tmp_path: Path) -> None:
    """A variable that ends in _FILE names a file with the value, as container platforms mount secrets."""
    (tmp_path / "key").write_text(CANARY + "\n")
    _, caller = read_environment(SOCKET | {"STRONGROOM_API_ID": "ci", "STRONGROOM_API_KEY_FILE": str(tmp_path / "key")})

    assert caller.api_key == Secret(CANARY)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        SOCKET,
        KEY,
        SOCKET | {"STRONGROOM_API_ID": "ci"},
        SOCKET | {"STRONGROOM_API_KEY": "k"},
        SOCKET | KEY | {"STRONGROOM_API_KEY_FILE": "/dev/null"},
        SOCKET | {"STRONGROOM_API_ID": "ci", "STRONGROOM_API_KEY_FILE": "/nowhere"},
        KEY | {"STRONGROOM_URL": "ftp://h"},
        KEY | {"STRONGROOM_URL": "http://u:p@h"},
    ],
)
def test_an_environment_that_does_not_say_enough_or_too_much_is_refused(environ: dict[str, str]) -> None:
    """Half a credential, a value said twice, a file that is not there, a url that is none."""
    with pytest.raises(ConfigurationError):
        read_environment(environ)


@pytest.mark.parametrize("face", [StorageClient, AsyncStorageClient])
def test_a_client_is_made_from_a_home_and_from_the_environment(
    tmp_path: Path, face: type[StorageClient | AsyncStorageClient]
) -> None:
    """Both ways take the options of the constructor."""
    home_at(tmp_path)
    for client in (
        face.from_home(tmp_path, timeout=1.0, on_behalf_of="user:alice"),
        face.from_environment({"STRONGROOM_HOME": str(tmp_path)}, retries=0),
    ):
        assert repr(client) == f"<{face.__name__} /run/s.sock, api id local>"


@pytest.mark.parametrize("value", ["", " k", "k\r\nX: y", "kä", "k\x00"])
def test_a_key_no_header_can_carry_is_refused_and_not_quoted(value: str) -> None:
    """It is found here, because the library below would quote it in its error."""
    with pytest.raises(ConfigurationError) as caught:
        StorageClient(socket="/s", api_id="ci", api_key=value)
    assert not value.strip() or value not in str(caught.value)


def test_a_client_needs_a_socket_or_a_url() -> None:
    """Neither, and both, are refused."""
    for socket, url in ((None, ""), ("/s", "http://h")):
        with pytest.raises(ConfigurationError):
            StorageClient(socket=socket, url=url, api_id="ci", api_key="k")


def test_another_caller_needs_id_and_key() -> None:
    """An id with our key, or a key with our id, is nobody."""
    client = StorageClient(socket="/s", api_id="ci", api_key="k")

    with pytest.raises(ConfigurationError):
        client.acting_for(api_id="other")
    with pytest.raises(ConfigurationError):
        client.acting_for(api_key="other")
    alone: list[dict[str, Any]] = [{"api_id": "other"}, {"api_key": "other"}]
    for said in (*alone, {"api_id": "ci", "api_key": "k", "token": "t"}):
        with pytest.raises(ConfigurationError):
            StorageClient(socket="/s", **said)


def test_a_client_shows_its_token_and_nothing_else() -> None:
    """A token, or none of both; a client for somebody else keeps what it shows, unless it is given something else."""
    client = StorageClient(url="https://secrets.test:443/below/", token=CANARY)
    assert client._caller.fields() == {"Authorization": f"Bearer {CANARY}"}
    assert client.acting_for(headers={"X-A": "b"})._caller.fields() == {
        "X-A": "b",
        "Authorization": f"Bearer {CANARY}",
    }
    assert client.acting_for(api_id="ci", api_key="k")._caller.proof is None
    assert StorageClient(socket="/s").acting_for(token=Secret("t"))._caller.fields() == {"Authorization": "Bearer t"}
    assert StorageClient(socket="/s")._caller.fields() == {}
    assert CANARY not in repr(client)
    with pytest.raises(ConfigurationError):
        client.acting_for(token="a", authorization="Bearer b")


@pytest.mark.parametrize(
    ("said", "called"),
    [
        ({"url": "https://Secrets.Test:443/"}, "https://secrets.test"),
        ({"url": "http://127.0.0.1:8000"}, "http://127.0.0.1:8000"),
        ({"url": "http://[::1]:80/below"}, "http://[::1]/below"),
        ({"socket": Path("/run/a b/s.sock")}, "unix:/run/a%20b/s.sock"),
    ],
)
def test_a_service_has_one_address_for_those_who_log_in(said: dict[str, Any], called: str) -> None:
    """However a host and its usual port are written, what is signed is one spelling, which fits into a line."""
    assert Address(**said).service == called


def test_over_a_url_secrets_lie_under_the_proxy_and_there_is_nothing_else() -> None:
    """The proxy's path for secrets stands in the place of the socket's; what it does not offer is not sent to it."""
    address = Address(url="http://127.0.0.1:8000/")

    assert str(address.place(None)) == "http://127.0.0.1:8000"
    assert address.path_of("/secrets/db/p") == "/api/v0/secrets/db/p"
    assert Address(url="http://proxy/strongroom/").path_of("/secrets/db/p") == "/strongroom/api/v0/secrets/db/p"
    for path in ("/storage/get", "/apikeys", "/status", "/secretsX"):
        with pytest.raises(NotImplementedHere):
            address.path_of(path)


@pytest.mark.parametrize(
    ("url", "place", "host"),
    [
        ("https://vault.example", "https://vault.example:443", "vault.example"),
        ("https://vault.example:443", "https://vault.example:443", "vault.example"),
        ("http://vault.example:8000", "http://vault.example:8000", "vault.example:8000"),
        ("http://[::1]:8000", "http://[::1]:8000", "[::1]:8000"),
        ("http://bücher.example", "http://bücher.example:80", "xn--bcher-kva.example"),
    ],
)
def test_a_url_says_where_to_connect_and_which_host_to_ask_for(url: str, place: str, host: str) -> None:
    """The port is the scheme's where none is said, and then ``Host`` says none; names may be in any script."""
    address = Address(url=url)
    context = ssl.create_default_context() if url.startswith("https:") else None

    assert str(address.place(context)) == place
    assert address.host_field == host


@pytest.mark.parametrize(
    "url",
    [
        "http://h:port",
        "http://h:99999",
        "http://a..b",
        "http://h/a b",
        "http://h/a\r\nX-Other: y",
        "http://h/#fragment",
        "http://:8000",
        "http://ho st",
        "http://:password@h",
    ],
)
def test_a_url_that_no_request_can_be_sent_to_is_refused(url: str) -> None:
    """It is refused when the client is made, and not repeated."""
    with pytest.raises(ConfigurationError, match="the url is http://host:port") as caught:
        Address(url=url)
    assert url not in str(caught.value)


@pytest.mark.parametrize("given", ["short", "x" * 65, "request 0001", "request-0001\u00e9"])
def test_a_request_id_that_the_service_would_not_take_is_refused(given: str) -> None:
    """It would answer by another, and the answer would pass for another request's."""
    with pytest.raises(ConfigurationError, match="X-Request-ID"):
        Caller(api_id="ci", api_key=Secret("k"), headers={"x-request-id": given})


def test_a_caller_shows_no_key() -> None:
    """Neither the key nor what else is sent stands in the repr."""
    assert CANARY not in repr(Caller(api_id="ci", api_key=Secret(CANARY), headers={"X-Token": CANARY}))
