"""What the operator says, from the places it can be said in."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from strongroom.deploy import settings
from strongroom.deploy.cli.backup.file import other_stores
from strongroom.deploy.home import Home
from strongroom.deploy.settings import Settings
from strongroom.models.secret import REDACTED
from strongroom.storage_service.config import ReadThroughSettings
from strongroom.storage_service.errors import ConfigurationError
from tests.backends.test_url import NASTY, pieces_in
from tests.deploy.running import ROOT

CANARY = "c4nary-h0rse-battery"
PAIR = "tls_certificate = 'c.pem'\ntls_key = 'k.pem'\n"
ENGINE = "[[engines]]\nhandler = 'Opa'\nname = 'a'\nstance = 'may-allow'\n"
KEY = {"STRONGROOM_API_KEY": "k", "STRONGROOM_API_ID": "i", "STRONGROOM_PROXY_KEY": "p"}


def load(home: Path, toml: str = "", environ: Mapping[str, str] = KEY, **said: Any) -> Settings:
    """Load settings from a home whose strongroom.toml holds *toml*."""
    home.mkdir(exist_ok=True)
    (home / "strongroom.toml").write_text(toml)
    return settings.load(environ=environ, home=home, **said)


def source_of(loaded: Settings, key: str) -> str:
    return next(shown.source for shown in loaded.shown if shown.key == key)


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "port", "source"),
    [
        ({}, {}, "", "8000", "default"),
        ({}, {}, 'listen = "127.0.0.1:1"', "1", "strongroom.toml"),
        ({}, {"STRONGROOM_LISTEN": "127.0.0.1:2"}, 'listen = "127.0.0.1:1"', "2", "STRONGROOM_LISTEN"),
        ({"listen": "127.0.0.1:3"}, {"STRONGROOM_LISTEN": "127.0.0.1:2"}, 'listen = "127.0.0.1:1"', "3", "--listen"),
        ({"listen": None}, {"STRONGROOM_LISTEN": "127.0.0.1:2"}, "", "2", "STRONGROOM_LISTEN"),
        ({}, {"STRONGROOM_LISTEN": ""}, 'listen = "127.0.0.1:1"', "1", "strongroom.toml"),
    ],
)
def test_the_strongest_place_decides(
    home: Path, flags: dict[str, Any], environ: dict[str, str], toml: str, port: str, source: str
) -> None:
    """Flags come before variables, those before the file, and that before the default; an empty one says nothing."""
    loaded = load(home, toml, KEY | environ, flags=flags)

    assert loaded.proxy.listen == f"127.0.0.1:{port}"
    assert source_of(loaded, "listen") == source


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("WORKERS", "3", "workers", 3),
        ("DEBUG", "true", "debug", True),
        ("DEBUG", "0", "debug", False),
        ("TIMEOUT", "2.5", "proxy.timeout", 2.5),
        ("SELF_AUTHS", "/api/v0/secrets, /x", "proxy.self_auths", ("/api/v0/secrets", "/x")),
        ("SOCKET_MODE", "0600", "service.socket_mode", 0o600),
        ("UMASK", "027", "umask", 0o027),
        ("STORE", "memory", "service.store", "memory:"),
        ("AUTOGEN_ROOT_KEY", "false", "service.autogen_root_key", False),
        ("TLS_MINIMUM", "1.3", "proxy.tls_minimum", "1.3"),
        ("TLS_CLIENT_CERTIFICATES", "off", "proxy.tls_client_certificates", "off"),
    ],
)
def test_variables_say_what_the_file_can(home: Path, variable: str, text: str, field: str, value: object) -> None:
    """A variable's text is read as the type of its setting."""
    loaded: Any = load(home, "", KEY | {f"STRONGROOM_{variable}": text})
    for name in field.split("."):
        loaded = getattr(loaded, name)

    assert loaded == value


@pytest.mark.parametrize(("toml", "workers"), [("", 2), ("store = 'memory'", 1), ("workers = 5", 5)])
def test_two_workers_unless_told_otherwise(home: Path, toml: str, workers: int) -> None:
    """The service has two workers; a store in memory, which each worker would have of its own, has room for one."""
    assert load(home, toml, KEY).workers == workers


def test_relative_paths_lie_in_the_home(home: Path) -> None:
    """A path of the settings counts from the home unless it is absolute."""
    loaded = load(home, 'audit_log = "elsewhere/a.log"\nroot_key = "/etc/key"\nstore = "sqlite:a/../b.db"')

    assert loaded.service.socket == home / "run/storage.sock"
    assert loaded.service.audit_log == home / "elsewhere/a.log"
    assert loaded.service.root_key == Path("/etc/key")
    assert loaded.service.store == f"sqlite:{home}/b.db"
    assert loaded.directories() == (home / "run", home / "elsewhere", Path("/etc"), home)


def test_the_file_may_name_the_home(short: Path) -> None:
    """A settings file in /etc names the directory that relative paths count from; else that is its own."""
    file = short / "strongroom.toml"
    file.write_text("")
    assert settings.load(environ=KEY, config=file).home == short

    file.write_text(f'home = "{short}/var"')
    assert settings.load(environ=KEY, config=file).home == short / "var"
    assert settings.load(environ=KEY | {"STRONGROOM_CONFIG": str(file)}).home == short / "var"
    assert settings.load(environ=KEY | {"STRONGROOM_HOME": str(short / "x")}, config=file).home == short / "x"


def test_handlers_and_plugins_are_tables(home: Path) -> None:
    """Arrays of tables become the handlers, authenticators and authorizers of the service."""
    loaded = load(
        home,
        """
        [[storage_handlers]]
        type = "sqlite"
        name = "rack"
        models = ["Host", "Host*"]
        url = "sqlite:rack.db"
        [[authenticators]]
        handler = "SimpleCredsAuth"
        uid = "12"
        [[authorizers]]
        handler = "SimplePathAuthz"
        paths = ["/.", "/secrets"]
        [[proxy_authenticators]]
        name = "basic"
        file = "/etc/users"
        """,
    )

    (handler,) = loaded.service.storage_handlers
    assert (handler.type, handler.name, handler.models) == ("sqlite", "rack", ("Host", "Host*"))
    assert handler.options == {"url": f"sqlite:{home}/rack.db"}
    (authenticator,) = loaded.service.authenticators
    assert (authenticator.handler, authenticator.options) == ("SimpleCredsAuth", {"uid": "12"})
    (authorizer,) = loaded.service.authorizers
    assert authorizer.options == {"paths": "/. /secrets"}
    assert loaded.proxy.authenticators == (("basic", {"file": "/etc/users"}),)


def test_engines_are_tables(home: Path) -> None:
    """Each has a name and a stance of its own, and what it names as a file lies in the home."""
    loaded = load(
        home,
        """
        [[engines]]
        handler = "Opa"
        name = "site"
        stance = "must-allow"
        url = "https://opa.example:8181/v1/data/strongroom/allow"
        token_file = "opa.token"
        [[engines]]
        handler = "Rbac"
        name = "roles"
        stance = "may-allow"
        grants = ["user:ann reader", "user:bo reader"]
        """,
    )
    site, roles = loaded.service.engines
    assert (site.name, site.handler, site.stance) == ("site", "Opa", "must-allow")
    assert site.options == {
        "url": "https://opa.example:8181/v1/data/strongroom/allow",
        "token_file": f"{home}/opa.token",
    }
    assert roles.options == {"grants": "user:ann reader user:bo reader"}
    assert load(home, "").service.engines == ()


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        (f"stroe = '{CANARY}'", "strongroom.toml: there is no 'stroe' here; did you mean 'store'?"),
        (f"zzzzzz = '{CANARY}'", "strongroom.toml: there is no 'zzzzzz' here; known are addresses, api_id,"),
        (f"workers = '{CANARY}'", "strongroom.toml: 'workers': is a whole number from 1 to 64"),
        ("workers = 0", "strongroom.toml: 'workers': is a whole number from 1 to 64"),
        ("debug = 'yes'", "strongroom.toml: 'debug': is true or false"),
        (f"x = {CANARY}", "strongroom.toml: not TOML (at line 1, column 5)"),
        ("x = " + "[" * 60_000, "strongroom.toml: this is more than can be read"),
        ("x = " + "1" * 5000, "strongroom.toml: this is more than can be read"),
        (f"api_key = '{CANARY}'", "strongroom.toml: 'api_key' has no place here; it is kept in client.json, mode 0600"),
        (
            f"proxy_key = '{CANARY}'",
            "strongroom.toml: 'proxy_key' has no place here; it is kept in proxy.json, mode 0600",
        ),
        (f"store = 'redis://{CANARY}'", "strongroom.toml: 'store' is sqlite, memory, sqlite:FILE or etcd://HOST:PORT"),
        ("store = 'etcd:'", "strongroom.toml: 'store' names no server: etcd://HOST:PORT"),
        (f"listen = '{CANARY}'", "strongroom.toml: 'listen' is HOST:PORT"),
        ("listen = 'x:99999'", "strongroom.toml: 'listen' is HOST:PORT"),
        ("socket_mode = '0999'", "strongroom.toml: 'socket_mode' is an octal mode in quotes"),
        ("log_format = 'xml'", 'strongroom.toml: \'log_format\': is one of "json", "plain"; a file'),
        ("tls_certificate = 'c.pem'", "strongroom.toml: 'tls_certificate' needs 'tls_key', too"),
        ("tls_key = 'k.pem'", "strongroom.toml: 'tls_key' needs 'tls_certificate', too"),
        ("tls_minimum = 1.3", 'strongroom.toml: \'tls_minimum\': is one of "1.2", "1.3"; a file has it in quotes'),
        (f"tls_minimum = '{CANARY}'", 'strongroom.toml: \'tls_minimum\': is one of "1.2", "1.3"'),
        ("tls_minimum = '1.1'", 'strongroom.toml: \'tls_minimum\': is one of "1.2", "1.3"'),
        (
            f"tls_client_certificates = '{CANARY}'",
            '\'tls_client_certificates\': is one of "off", "optional", "required"',
        ),
        (
            "tls_client_certificates = 'required'",
            "'tls_client_certificates' needs TLS: say tls_certificate and tls_key",
        ),
        (f"{PAIR}tls_client_certificates = 'optional'", "needs 'tls_client_ca', the authority that signs them"),
        (f"{PAIR}tls_client_ca = 'ca.pem'", "'tls_client_ca' asks nobody: say tls_client_certificates = \"optional\""),
        (f"socket = '/run/{'x' * 120}'", "strongroom.toml: 'socket' makes a path of 125 bytes"),
        (
            "[[authenticators]]\nhandler = 'SimpleHeaderAuth'",
            "'authenticators' has a handler that is not one of SimpleAuth",
        ),
        (
            "[[authenticators]]\nuid = '1'",
            "'authenticators' has a handler that is not one of SimpleAuthKeys, SimpleCreds",
        ),
        ("[[authorizers]]\nhandler = 'SimplePathAuthz'\npath = '/'", "no 'path' here; did you mean 'paths'?"),
        ("[[engines]]\nhandler = 'Cedar'\nname = 'a'", "'engines' has a handler that is not one of Opa, OpenFga, Rbac"),
        ("[[engines]]\nhandler = 'Rbac'\nstance = 'may-allow'", "'engines' each have a 'name' of their own"),
        (f"{ENGINE}{ENGINE}", "'engines' each have a 'name' of their own"),
        ("[[engines]]\nhandler = 'Rbac'\nname = 'a'\nstance = 'fail-open'", "'engines' each have a 'stance'"),
        (f"{ENGINE}token = '{CANARY}'", "there is no 'token' here; did you mean 'token_file'?"),
        (f"{ENGINE}url = 'https://ada:{CANARY}@opa.example/'", "have a url with a password in it"),
        ("[[storage_handlers]]\nurl = 3", "strongroom.toml: 'storage_handlers': expected `str | array`, got `int`"),
        (
            f"[[network_rules]]\naddresses = ['{CANARY}']\ncommands = ['read']",
            "'network_rules' has one that cannot be: a network rule: a network is an address",
        ),
        (
            f"[[network_rules]]\naddresses = ['192.0.2.7']\ncommands = ['{CANARY}']",
            "'network_rules' has one that cannot be: a network rule's commands are of read, create",
        ),
        ("[[network_rules]]\ntype = 'Allow'\naddresses = ['192.0.2.7']\ncommands = ['*']", "'network_rules': "),
        ("[[network_rules]]\naddresses = []\ncommands = ['*']", "'network_rules': "),
        ("trusted_proxies = -1", "'trusted_proxies': is a whole number from 0 to 16"),
        ("workers = 2\nstore = 'memory'", "'store' is memory, which several workers would each have of their own"),
    ],
)
def test_what_is_wrong_is_named(home: Path, toml: str, text: str) -> None:
    """A setting that cannot be is refused by place and name, with its rule or the nearest name, without its value."""
    with pytest.raises(ConfigurationError) as caught:
        load(home, toml)

    assert text in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "flags", "text"),
    [
        ({"STRONGROOM_WORKERS": CANARY}, {}, "STRONGROOM_WORKERS: is a whole number from 1 to 64"),
        ({"STRONGROOM_LISTEN": CANARY}, {}, "STRONGROOM_LISTEN: 'listen' is HOST:PORT"),
        ({"STRONGROOM_STORE": "memory", "STRONGROOM_STORE_FILE": "/f"}, {}, "say the same thing; keep one of them"),
        ({}, {"workers": 99}, "--workers: is a whole number from 1 to 64"),
        ({}, {"store": f"etcd://u:{CANARY}@h"}, "--store: a password does not belong on a command line"),
    ],
)
def test_flags_and_variables_are_named_too(
    home: Path, environ: dict[str, str], flags: dict[str, Any], text: str
) -> None:
    """A wrong flag or variable is named as it was written."""
    with pytest.raises(ConfigurationError) as caught:
        load(home, "", KEY | environ, flags=flags)

    assert text in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(home: Path) -> None:
    """Bytes that are not UTF-8 are told by their place."""
    home.mkdir()
    (home / "strongroom.toml").write_bytes(b"listen = '\xff'")

    with pytest.raises(ConfigurationError, match=r"strongroom\.toml: byte 10 is not UTF-8 text"):
        settings.load(environ=KEY, home=home)


def test_a_settings_file_that_was_named_must_be_there(short: Path) -> None:
    """Only the usual place may be empty."""
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        settings.load(environ=KEY, config=short / "gone.toml")


def test_tls_is_said_in_layers_like_all_else(home: Path) -> None:
    """The file says files and versions, a variable one of them anew, and each is shown with who said it."""
    toml = f"{PAIR}tls_minimum = '1.3'\ntls_client_certificates = 'required'\ntls_client_ca = '/etc/ca.pem'"
    loaded = load(home, toml, KEY | {"STRONGROOM_TLS_CLIENT_CERTIFICATES": "optional"})

    assert (loaded.proxy.tls_certificate, loaded.proxy.tls_key) == (home / "c.pem", home / "k.pem")
    assert (loaded.proxy.tls_minimum, loaded.proxy.tls_client_ca) == ("1.3", Path("/etc/ca.pem"))
    assert loaded.proxy.tls_client_certificates == "optional"
    assert source_of(loaded, "tls_client_certificates") == "STRONGROOM_TLS_CLIENT_CERTIFICATES"
    assert source_of(loaded, "tls_client_ca") == source_of(loaded, "tls_minimum") == "strongroom.toml"
    off = load(home, f"{PAIR}tls_client_ca = 'ca.pem'\ntls_client_certificates = 'off'").proxy
    assert (off.tls_client_certificates, off.tls_client_ca) == ("off", home / "ca.pem")


def test_network_rules_reach_the_service_and_the_count_the_proxy(home: Path) -> None:
    """A rule that does not say what it is denies; without any, and without a count, there is nothing of either."""
    toml = (
        "trusted_proxies = 2\n[[network_rules]]\naddresses = ['192.0.2.0/24', '2001:db8::1']\ncommands = ['*', 'login']"
    )
    loaded = load(home, toml)
    (rule,) = loaded.service.network_rules
    assert (rule.type, rule.addresses, rule.commands) == ("deny", ("192.0.2.0/24", "2001:db8::1"), ("*", "login"))
    assert loaded.proxy.trusted_proxies == 2
    assert (load(home).service.network_rules, load(home).proxy.trusted_proxies) == ((), 0)


def test_a_home_that_says_nothing_of_tls_keeps_1_2(home: Path, short: Path) -> None:
    """An upgrade locks no client out; a home that is made now, and settings that systemd is given, ask for 1.3."""
    assert load(home).proxy.tls_minimum == "1.2"

    made = Home(short / "new")
    made.prepare()
    made.furnish()
    assert settings.load(environ={}, home=made.path).proxy.tls_minimum == "1.3"
    shipped = ROOT / "deploy/systemd/strongroom.toml"
    assert settings.load(environ=KEY, config=shipped, home=home).proxy.tls_minimum == "1.3"


def test_a_variable_that_means_nothing_is_refused(home: Path) -> None:
    """A typing mistake is told with what was meant; what means something elsewhere is let alone."""
    with pytest.raises(
        ConfigurationError, match=r"^STRONGROOM_STROE: there is no such variable; did you mean STRONGROOM_STORE\?$"
    ):
        load(home, "", KEY | {"STRONGROOM_STROE": "sqlite"})

    loaded = load(home, "", KEY | {"STRONGROOM_ETCD_PASSWORD": "x", "STRONGROOM_URL": "y", "STRONGROOM_STORE": ""})
    assert loaded.notes == ()


class TestApiKey:
    """Where the API key comes from."""

    def test_the_environment_may_hold_it(self, home: Path) -> None:
        """Two variables are enough."""
        service = load(home, "", KEY).service
        assert (service.api_id, service.api_key.reveal()) == ("i", "k")

    def test_a_variable_may_name_its_file(self, home: Path, short: Path) -> None:
        """Containers hand secrets over as files; STRONGROOM_<NAME>_FILE names one."""
        (short / "key").write_text("from-file\n")
        said = {"STRONGROOM_API_ID": "i", "STRONGROOM_API_KEY_FILE": str(short / "key")}
        loaded = load(home, "", said, role="storage")
        assert loaded.service.api_key.reveal() == "from-file"

    def test_else_client_json_holds_it(self, home: Path) -> None:
        """The home's own file is the usual place."""
        write_client(home)
        write_client(home, "proxy.json", api_id="front", api_key="p")
        loaded = load(home, "", {})
        assert (loaded.service.api_id, loaded.service.api_key.reveal()) == ("me", CANARY)
        assert (loaded.proxy.api_id, loaded.proxy.api_key.reveal()) == ("front", "p")
        assert [source_of(loaded, name) for name in ("api_key", "proxy_key")] == ["client.json", "proxy.json"]

    def test_each_process_needs_its_own(self, home: Path) -> None:
        """The proxy is never told the service's key, and the service goes without a proxy's."""
        write_client(home, "proxy.json", api_id="front", api_key="p")
        of_proxy = load(home, "", {}, role="proxy")
        assert (of_proxy.proxy.api_key.reveal(), of_proxy.service.api_key.reveal()) == ("p", "")
        write_client(home)
        (home / "proxy.json").unlink()
        assert load(home, "", {}, role="storage").service.proxy is None
        with pytest.raises(
            ConfigurationError, match=r"proxy\.json does not exist: 'strongroom up' or install\.sh makes it"
        ):
            load(home, "", {}, role="proxy")

    def test_an_empty_key_is_none(self, home: Path) -> None:
        """A file whose key is empty lets nothing start: everybody could show that key."""
        write_client(home, api_key="")
        with pytest.raises(
            ConfigurationError, match=r"client\.json: the API key is empty; delete the file for a new one"
        ):
            load(home, "", {}, role="storage")

    @pytest.mark.parametrize("role", ["storage", "proxy", None])
    @pytest.mark.parametrize(
        ("said", "text"),
        [
            ({"STRONGROOM_PROXY_ID": "i"}, "STRONGROOM_PROXY_ID: 'proxy_id' is the service's own"),
            ({"STRONGROOM_PROXY_KEY": "k"}, "STRONGROOM_PROXY_KEY: 'proxy_key' is the service's own"),
        ],
    )
    def test_the_proxy_and_the_service_are_two(
        self, home: Path, role: str | None, said: dict[str, str], text: str
    ) -> None:
        """One id for both would be one principal, and one key, under whatever id, open all to the proxy."""
        with pytest.raises(ConfigurationError) as refused:
            load(home, "", KEY | said, role=role)
        assert text in str(refused.value)

    @pytest.mark.parametrize("role", ["storage", "proxy", None])
    def test_a_copy_of_the_services_key_is_no_proxys(self, home: Path, role: str | None) -> None:
        """With client.json copied over proxy.json no process starts; the proxy knows the usual id alone."""
        write_client(home, api_id="storage_service")
        write_client(home, "proxy.json", api_id="storage_service")
        with pytest.raises(ConfigurationError, match=r"^proxy\.json: 'proxy_id' is the service's own"):
            load(home, "", {}, role=role)

    @pytest.mark.parametrize("role", ["storage", None])
    def test_who_knows_both_keys_compares_them(self, home: Path, role: str | None) -> None:
        """The same key under another id is refused by who is told both; nothing of it is repeated."""
        write_client(home, api_id="storage_service")
        write_client(home, "proxy.json", api_id="http_proxy")
        with pytest.raises(ConfigurationError, match=r"^proxy\.json: 'proxy_key' is the service's own") as refused:
            load(home, "", {}, role=role)
        assert CANARY not in str(refused.value)

    @pytest.mark.parametrize(
        ("names", "file"),
        [
            (["apikey"], None),
            (["apikey", "token", "basic"], None),
            (['basic"\nfilepath = "/users.json'], Path("/users.json")),
            (["apikey", 'basic"\nfilepath = "/users.json', 'basic"\nfilepath = "/others.json'], Path("/users.json")),
            (["basic", 'basic"\nfilepath = "/others.json'], None),
        ],
    )
    def test_the_service_reads_the_users_file(self, home: Path, names: list[str], file: Path | None) -> None:
        """It is the one that the first `basic` names, for which the proxy's key reached something once."""
        tables = "".join(f'[[proxy_authenticators]]\nname = "{name}"\n' for name in names)
        assert load(home, tables, KEY).service.users_file == file

    def test_without_one_nothing_starts(self, home: Path) -> None:
        """A missing key is an error that says how to have one, except where a configuration is only looked at."""
        with pytest.raises(
            ConfigurationError, match=r"client\.json does not exist: 'strongroom up' or install\.sh makes it"
        ):
            load(home, "", {})
        assert not load(home, "", {}, without_key=True).service.api_key

    def test_a_file_that_others_can_read_is_refused(self, home: Path) -> None:
        """A key that others could have read is no key; the text says what to do."""
        write_client(home).chmod(0o640)
        with pytest.raises(ConfigurationError, match=r"others than its owner can read this API key; run: chmod 600"):
            load(home, "", {})

    def test_systemds_credentials_are_taken_as_they_are(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Credential files of systemd are the unit's alone, whatever their mode says."""
        write_client(home).chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home))
        assert load(home, "", {}, role="storage").service.api_id == "me"

    @pytest.mark.parametrize("content", ["{", '{"url": ""}', '{"url": "", "socket": "", "api_id": "", "api_key": 7}'])
    def test_a_damaged_file_is_refused(self, home: Path, content: str) -> None:
        """What is no client.json is told so, without its content."""
        write_client(home).write_text(content)
        with pytest.raises(ConfigurationError, match="a JSON object with api_id, api_key, and socket or url"):
            load(home, "", {})


def write_client(home: Path, name: str = "client.json", api_id: str = "me", api_key: str = CANARY) -> Path:
    """Write a client.json with the canary for a key."""
    home.mkdir(exist_ok=True)
    file = home / name
    file.write_text(json.dumps({"url": "u", "socket": "s", "api_id": api_id, "api_key": api_key}))
    file.chmod(0o600)
    return file


def test_what_is_shown_holds_no_secret(home: Path) -> None:
    """The API key and passwords in URLs are masked in what is shown, and in every repr."""
    loaded = load(
        home,
        f'store = "etcd://root:{CANARY}@h:2379/x"\n[[storage_handlers]]\ntype = "etcd"\nurl = "etcd://u:{CANARY}@h"',
        {"STRONGROOM_API_ID": "i", "STRONGROOM_API_KEY": CANARY, "STRONGROOM_PROXY_KEY": f"{CANARY}-2"},
    )

    shown = {line.key: line.value for line in loaded.shown}
    assert shown["store"] == f"etcd://root:{REDACTED}@h:2379/x"
    assert shown["api_key"] == REDACTED
    assert CANARY not in str(shown)
    assert CANARY not in repr(loaded)


@pytest.mark.parametrize("password", NASTY)
def test_no_password_is_shown_whatever_is_in_it(home: Path, password: str) -> None:
    """Wherever a store is said, the settings show, refuse and name it without any piece of its password."""
    said = json.dumps(f"etcd://u:{password}@h:2379/x"), json.dumps(f"etcd://u@h:2379/x?password={password}")
    options = "".join(
        f"{name} = {json.dumps(password)}\n" for name in ("password", "api_token", "Secret", "ssh-key", "passphrase")
    )
    for url in said:
        if not password.isprintable():
            with pytest.raises(ConfigurationError, match="has control characters") as refused:
                load(home, f"store = {url}")
            assert not pieces_in(str(refused.value), password)
            continue
        loaded = load(
            home, f"store = {url}\n[[storage_handlers]]\ntype = 'etcd'\nurl = {url}\nkey = '/k.pem'\n{options}"
        )
        shown = {line.key: line.value for line in loaded.shown}
        other = load(home, f"[[storage_handlers]]\ntype = 'etcd'\nurl = {url}")
        assert not pieces_in(f"{shown}{loaded!r}{other_stores(other)}", password)
        assert shown["store"].startswith("etcd://")  # type: ignore[attr-defined]
        assert shown["storage_handlers"][0]["key"] == "/k.pem"  # type: ignore[index]

        with pytest.raises(ConfigurationError, match="a password does not belong on a command line") as refused:
            load(home, flags={"store": json.loads(url)})
        assert not pieces_in(str(refused.value), password)
        with pytest.raises(ConfigurationError, match="a place with a password in it") as refused:
            load(home, f"[[read_through]]\nsource = 'commissaire'\nplace = {url}")
        assert not pieces_in(str(refused.value), password)


READ_THROUGH = """
[[read_through]]
source = "commissaire"
place = "etcd://h:2379/commissaire"
options = { cacert = "/ca.pem", also = ["a", "b"] }
"""


def test_old_places_are_said_as_to_the_command(home: Path) -> None:
    """Each table is a source, its place and its options, each of which may be said once or more often."""
    loaded = load(home, READ_THROUGH + '[[read_through]]\nsource = "custodia"\nplace = "/run/custodia.sock"')

    assert loaded.service.read_through == (
        ReadThroughSettings(
            source="commissaire",
            place="etcd://h:2379/commissaire",
            options={"cacert": ("/ca.pem",), "also": ("a", "b")},
        ),
        ReadThroughSettings(source="custodia", place="/run/custodia.sock"),
    )
    shown = next(line for line in loaded.shown if line.key == "read_through")
    assert shown.source == "strongroom.toml"
    assert msgspec.json.decode(msgspec.json.encode(shown.value)) == [
        {
            "source": "commissaire",
            "place": "etcd://h:2379/commissaire",
            "options": {"cacert": ["/ca.pem"], "also": ["a", "b"]},
        },
        {"source": "custodia", "place": "/run/custodia.sock", "options": {}},
    ]


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("read_through = true", "expected `array`"),
        ('[[read_through]]\nsource = "commissaire"', "missing required field `place`"),
        ('[[read_through]]\nsource = ""\nplace = "p"', "expected `str` of length >= 1"),
        ('[[read_through]]\nsource = "s"\nplace = "p"\noption = {}', "unknown field `option`"),
        (f'[[read_through]]\nsource = "s"\nplace = "p"\noptions = {{ {CANARY.replace("-", "")} = 7 }}', "expected"),
        (f'[[read_through]]\nsource = "s"\nplace = "etcd://u:{CANARY}@h"', "a place with a password in it"),
    ],
)
def test_old_places_that_are_none(home: Path, toml: str, reason: str) -> None:
    """The error names the setting and what is wrong with it, and repeats no value."""
    with pytest.raises(ConfigurationError, match=r"strongroom\.toml: 'read_through'") as caught:
        load(home, toml)
    assert reason in str(caught.value)
    assert CANARY not in str(caught.value)


def test_every_setting_is_documented() -> None:
    """docs/configuration.md has a row for each setting, and none for what there is not."""
    text = (Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text()
    table = text.partition("\n## Settings")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))

    assert documented == {field.name for field in msgspec.structs.fields(settings.Keys)}


@pytest.mark.parametrize("half", ["tls_certificate = 'c.pem'", "tls_key = 'k.pem'", "tls_client_ca = 'ca.pem'"])
def test_half_of_tls_is_the_proxys_affair(home: Path, half: str) -> None:
    """The proxy's unit may be told the other half: the service has no TLS, and starts; the proxy and a check refuse."""
    assert load(home, half, role="storage").proxy.tls_certificate is None

    for role in ("proxy", None):
        with pytest.raises(ConfigurationError):
            load(home, half, role=role)


def test_a_client_file_that_only_root_reads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are looked at by a user who may not see the API key, and a note says so; nothing starts like that."""
    home.mkdir()
    (home / "client.json").write_text("{}")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "client.json" and real(path, mode))

    looked_at = load(home, environ={}, without_key=True)

    assert looked_at.notes == (f"{home}/client.json: this user cannot read it, so it was not looked at",)
    with pytest.raises(ConfigurationError):
        load(home, environ={})
