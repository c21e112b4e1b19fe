"""The proposal's two files (CPD-101, "Example Configuration"): as they stand, and what may not stand in them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from strongroom.deploy import settings
from strongroom.deploy.settings import custodia_conf, storage_conf
from strongroom.deploy.settings.layer import Layer, Placeholders
from strongroom.storage_service.config import AuthenticatorSettings, AuthorizerSettings, HandlerSettings
from strongroom.storage_service.errors import ConfigurationError

EXAMPLES = Path(__file__).parent / "examples"
CANARY = "c4nary-h0rse-battery"


def examples(
    home: Path, environ: Mapping[str, str] | None = None, sets: Mapping[str, str] | None = None
) -> settings.Settings:
    """Load the two examples."""
    flags = {"storage_conf": str(EXAMPLES / "storage.conf"), "custodia_conf": str(EXAMPLES / "custodia.conf")}
    key = {"STRONGROOM_API_KEY": "k"} if environ is None else environ
    return settings.load(environ={"STRONGROOM_PROXY_KEY": "p", **key}, home=home, flags=flags, sets=sets)


def test_the_examples_resolve_as_they_stand(home: Path) -> None:
    """Every word of the two files arrives in the settings of the service."""
    loaded = examples(home)
    service = loaded.service

    assert service.api_id == "storage_service"
    assert service.socket == Path("/var/run/custodia.sock")
    assert service.audit_log == Path("/var/log/commissaire/custodia-audit.log")
    assert service.root_key == Path("/var/lib/commissaire/custodia/secrets.key")
    assert service.autogen_root_key
    assert service.store == "etcd://127.0.0.1:2379/custodia_commissaire_data"
    assert service.storage_handlers == (
        HandlerSettings(name="etcd", models=("*",), options={"url": "etcd://127.0.0.1:2379/commissaire"}),
    )
    assert service.authenticators == (
        AuthenticatorSettings(
            handler="SimpleAuthKeys", options={"id_header": "CUSTODIA_AUTH_ID", "key_header": "CUSTODIA_KEY_ID"}
        ),
    )
    assert service.authorizers == (AuthorizerSettings(handler="SimplePathAuthz", options={"paths": "/. /secrets"}),)
    assert not loaded.debug
    assert loaded.proxy.socket == service.socket
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("environ", "sets", "host"),
    [
        ({}, {}, "127.0.0.1:2379"),
        ({"ETCD_SERVER": "a"}, {}, "a:2379"),
        ({"ETCD_SERVER": "a", "STRONGROOM_ETCD_SERVER": "b"}, {}, "b:2379"),
        ({"STRONGROOM_ETCD_SERVER": "b"}, {"etcd_server": "c", "etcd_port": "4"}, "c:4"),
    ],
)
def test_placeholders_are_filled(home: Path, environ: dict[str, str], sets: dict[str, str], host: str) -> None:
    """--set comes before STRONGROOM_<NAME>, that before <NAME>, and that before the default."""
    loaded = examples(home, environ | {"STRONGROOM_API_KEY": "k"}, sets)

    assert loaded.service.store == f"etcd://{host}/custodia_commissaire_data"


def test_the_directories_can_be_others(home: Path) -> None:
    """--set moves what the file puts under libdir, logdir and rundir, a dollar sign included."""
    loaded = examples(home, sets={"libdir": "/l", "logdir": "/lo$g", "rundir": "/r"})

    assert loaded.service.root_key == Path("/l/secrets.key")
    assert loaded.service.audit_log == Path("/lo$g/custodia-audit.log")
    assert loaded.service.socket == Path("/r/custodia.sock")


@pytest.mark.parametrize("environ", [{"STRONGROOM_API_KEY": CANARY}, {"API_KEY": CANARY}])
def test_the_api_key_comes_from_the_environment(home: Path, environ: dict[str, str]) -> None:
    """$API_KEY is filled from the variable that it names."""
    assert examples(home, environ).service.api_key.reveal() == CANARY


def test_the_api_key_is_else_the_homes(home: Path) -> None:
    """$API_KEY stands for the generated key where no variable says another."""
    home.mkdir()
    file = home / "client.json"
    file.write_text('{"url": "", "socket": "", "api_id": "x", "api_key": "generated"}')
    file.chmod(0o600)

    assert examples(home, {}).service.api_key.reveal() == "generated"


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        ({"etcd_sever": "x"}, "--set: there is no 'etcd_sever' here; did you mean 'etcd_server'?"),
        (
            {"API_KEY": CANARY},
            "--set api_key: a secret does not belong on a command line; use the variable STRONGROOM_API_KEY",
        ),
        ({"etcd_password": CANARY}, "--set etcd_password: a secret does not belong on a command line"),
        ({"proxy_key": CANARY}, "--set proxy_key: a secret does not belong on a command line"),
        ({"tls_key": "/key.pem"}, "--set tls_key: that is a setting"),
        ({"root_key": "/secrets.key"}, "say STRONGROOM_ROOT_KEY, or write it into strongroom.toml"),
        ({"libdir": "a\nb"}, "--set libdir: the value holds a control character"),
    ],
)
def test_a_set_that_cannot_be_is_refused(home: Path, sets: dict[str, str], text: str) -> None:
    """--set names what a file asks for, and no secret."""
    with pytest.raises(ConfigurationError) as caught:
        examples(home, sets=sets)

    assert text in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("name", ["tls_key", "root_key", "machine_key"])
def test_a_file_that_holds_a_key_is_no_secret(home: Path, short: Path, name: str) -> None:
    """Where a template leaves open the name of such a file, --set fills it."""
    custodia = short / "custodia.conf"
    text = (EXAMPLES / "custodia.conf").read_text()
    custodia.write_text(text.replace("${logdir}/custodia-audit", f"{{{{ {name} }}}}"))

    loaded = settings.load(
        environ={"STRONGROOM_API_KEY": "k", "STRONGROOM_PROXY_KEY": "p"},
        home=home,
        flags={"custodia_conf": str(custodia)},
        sets={name: "/somewhere/key"},
    )
    assert loaded.service.audit_log == Path("/somewhere/key.log")


def test_the_two_files_name_one_socket(home: Path, short: Path) -> None:
    """The storage service and Custodia are one process, so two sockets are a contradiction."""
    storage = short / "storage.conf"
    storage.write_text('{"custodia_socket_path": "/other.sock", "custodia-api-key": "k"}')
    flags = {"storage_conf": str(storage), "custodia_conf": str(EXAMPLES / "custodia.conf")}

    with pytest.raises(ConfigurationError, match=r"custodia_socket_path' is not the server_socket of custodia\.conf"):
        settings.load(environ={}, home=home, flags=flags)

    storage.write_text('{"custodia_socket_path": "/var/run/custodia.sock", "custodia-api-key": "k"}')
    loaded = settings.load(environ={}, home=home, flags=flags, role="storage")
    assert loaded.service.api_key.reveal() == "k"


# storage.conf


def storage(short: Path, text: str, environ: Mapping[str, str] | None = None) -> Layer:
    """Read a storage.conf."""
    file = short / "storage.conf"
    file.write_text(text)
    return storage_conf.read(file, Placeholders({}, environ or {}))


ETCD_TLS = """[{"type": "etcd", "server-url": "https://h:1/", "certificate-ca-path": "/a b",
                "certificate-path": "/c", "certificate-key-path": "/k"}]"""


@pytest.mark.parametrize(
    ("handlers", "expected"),
    [
        ('{"type": "sqlite"}', [{"type": "sqlite"}]),
        ('[{"type": "commissaire.storage.sqlite", "name": "x"}]', [{"type": "sqlite", "name": "x"}]),
        ('[{"name": "sqlite", "models": []}]', [{"name": "sqlite", "models": []}]),
        ('[{"type": "etcd"}]', [{"type": "etcd", "url": "etcd://127.0.0.1:2379/commissaire"}]),
        (ETCD_TLS, [{"type": "etcd", "url": "etcd://h:1/commissaire?cacert=/a+b&cert=/c&key=/k"}]),
        ("[]", []),
    ],
)
def test_handlers_of_storage_conf(short: Path, handlers: str, expected: object) -> None:
    """An object is a list of one; hyphens are underscores; etcd's options become the URL of a store."""
    assert storage(short, f'{{"storage-handlers": {handlers}}}').values == {"storage_handlers": expected}


def test_what_has_no_meaning_here_is_noted(short: Path) -> None:
    """There is no bus, and logging is set elsewhere: such members are accepted and told of."""
    layer = storage(short, '{"bus_uri": "redis://x", "logging": {}, "debug": true}')

    assert layer.values == {"debug": True}
    assert [note.partition(" has")[0] for note in layer.notes] == ["storage.conf: 'bus_uri'", "storage.conf: 'logging'"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", "storage.conf: a JSON object is expected"),
        (f'{{"x": {CANARY}}}', "storage.conf: not JSON at line 1, column 7"),
        ("[" * 60_000, "storage.conf: this is more than can be read"),
        ('{"x": ' + "1" * 5000 + "}", "storage.conf: this is more than can be read"),
        ('{"debug": true, "debug": false}', "storage.conf: 'debug' appears twice"),
        ('{"bus-uri": 1, "bus_uri": 2}', "storage.conf: 'bus_uri' appears twice"),
        (
            f'{{"custodia_api_kay": "{CANARY}"}}',
            "there is no 'custodia_api_kay' here; did you mean 'custodia_api_key'?",
        ),
        ('{"debug": "yes"}', "storage.conf: 'debug' is true or false"),
        ('{"custodia_api_id": 7}', "storage.conf: 'custodia_api_id' is a text, and not empty"),
        ('{"custodia_api_id": "$WHO"}', "nothing fills the placeholder 'WHO'; give --set WHO=VALUE"),
        ('{"storage_handlers": "etcd"}', "'storage_handlers' is an object or a list of objects"),
        ('{"storage_handlers": ["etcd"]}', "storage_handlers[0] is an object"),
        ('{"storage_handlers": [{"type": "etcd", "server_uri": "x"}]}', "did you mean 'server_url'?"),
        ('{"storage_handlers": [{"type": "etcd", "server_url": 7}]}', "'server_url' is a text"),
        ('{"storage_handlers": [{"type": "etcd", "server_url": "h:1"}]}', "'server_url' is http://HOST:PORT or https"),
        (
            '{"storage_handlers": [{"type": "etcd", "server_url": "https://h:1", "certificate_path": "c"}]}',
            "'certificate_path' and 'certificate_key_path' go together",
        ),
        (
            '{"storage_handlers": [{"type": "etcd", "certificate_ca_path": "c"}]}',
            "certificates need an https 'server_url'",
        ),
        (
            '{"storage_handlers": [{"type": "etcd", "server_url": "https://h:1"}]}',
            "an https 'server_url' needs 'certificate_ca_path'",
        ),
    ],
)
def test_what_storage_conf_may_not_say(short: Path, text: str, error: str) -> None:
    """Each mistake is named, and no value is repeated."""
    with pytest.raises(ConfigurationError) as caught:
        storage(short, text)

    assert error in str(caught.value)
    assert CANARY not in str(caught.value)


# custodia.conf

STORES = """
[store:file]
handler = SqliteStore
dburi = /db
[store:locked]
handler = EncryptedOverlay
backing_store = file
master_key = /key
"""
SECRETS = "[/secrets]\nhandler = Secrets\nstore = locked\n"
WHO = "[auth:a]\nhandler = SimpleAuthKeys\n[authz:a]\nhandler = SimplePathAuthz\npaths = /secrets\n"
WHOLE = STORES + SECRETS + WHO


def custodia(short: Path, text: str, environ: Mapping[str, str] | None = None, **sets: str) -> Layer:
    """Read a custodia.conf."""
    file = short / "custodia.conf"
    file.write_text(text)
    return custodia_conf.read(file, Placeholders(sets, environ or {}), environ or {})


def test_what_custodia_conf_leaves_out(short: Path) -> None:
    """The defaults are Custodia's: no key is made, no directory, and the socket lies in socketdir."""
    assert custodia(short, WHOLE).values == {
        "socket": "/var/run/custodia/custodia.sock",
        "audit_log": "/var/log/custodia/custodia/audit.log",
        "debug": False,
        "makedirs": False,
        "store": "sqlite:/db",
        "root_key": "/key",
        "autogen_root_key": False,
        "authenticators": [{"handler": "SimpleAuthKeys"}],
        "authorizers": [{"handler": "SimplePathAuthz", "paths": "/secrets"}],
    }


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("[global]\nserver_url = http+unix://%2Frun%2Fx.sock\n", "socket", "/run/x.sock"),
        ("[global]\nserver_url = http+unix://%2Frun%2Fx.sock/\n", "socket", "/run/x.sock"),
        ("[global]\nauditlog = ${logdir}/${ENV:NAME}.log\n", "audit_log", "/var/log/custodia/custodia/a$b.log"),
        ("[global]\numask = 027\n", "umask", "0027"),
        ("[global]\ndebug = On\nmakedirs = 1\n", "debug", True),
        ("[DEFAULT]\nsocketdir = /s\ninstance = other\n", "socket", "/s/other.sock"),
        ("[DEFAULT]\nunknown = harmless\n", "debug", False),
        ("[auth:b]\nhandler = SimpleCredsAuth\nuid = root\ngid = 7\ndebug = true\n", "authenticators",
         [{"handler": "SimpleCredsAuth", "uid": "0", "gid": "7"}, {"handler": "SimpleAuthKeys"}]),
        ("[authz:b]\nhandler = custodia.x.UserNameSpace\npath = /secrets\nstore = file\n", "authorizers",
         [{"handler": "UserNameSpace", "path": "/secrets"}, {"handler": "SimplePathAuthz", "paths": "/secrets"}]),
        ("[/]\nhandler = Root\n", "store", "sqlite:/db"),
    ],
)  # fmt: skip
def test_what_custodia_conf_can_say(short: Path, text: str, key: str, value: object) -> None:
    """Each of Custodia's settings reaches the setting of ours that means the same, in the order of the file."""
    assert custodia(short, text + WHOLE, {"NAME": "a$b"}).values[key] == value


def test_options_that_only_custodia_needs_are_accepted(short: Path) -> None:
    """What a store or authenticator of Custodia's takes, and has no meaning here, is no mistake."""
    text = WHOLE.replace("dburi = /db", "dburi = /db\ntable = T\nfilemode = 600").replace(
        "handler = SimpleAuthKeys", "handler = SimpleAuthKeys\nstore = file\nstore_namespace = custodiaSAK"
    )
    assert custodia(short, text).values["store"] == "sqlite:/db"


def test_options_without_effect_are_noted(short: Path) -> None:
    """TLS and the server's name are the proxy's affair; a file without auth or authz refuses everybody."""
    text = f"[global]\nserver_string = x\ntls_certfile = /c\n{STORES}{SECRETS}"

    notes = custodia(short, text).notes

    assert ["server_string" in notes[0], "tls_*" in notes[1], "auth:" in notes[2], "authz:" in notes[3]] == [True] * 4


def test_more_files_add_to_the_first(short: Path) -> None:
    """The files of confdpattern are merged in order of their names, the later over the earlier."""
    more = short / "custodia.conf.d"
    more.mkdir()
    (more / "20.conf").write_text("[store:file]\ndburi = /second\n")
    (more / "10.conf").write_text("[store:file]\ndburi = /first\n[global]\ndebug = true\n")
    (more / "30.txt").write_text("not read")

    values = custodia(short, WHOLE).values

    assert values["store"] == "sqlite:/second"
    assert values["debug"] is True


def test_an_instance_has_directories_of_its_own(short: Path) -> None:
    """--set instance=NAME is Custodia's --instance."""
    values = custodia(short, WHOLE, instance="blue").values

    assert values["socket"] == "/var/run/custodia/blue.sock"
    assert values["audit_log"] == "/var/log/custodia/blue/audit.log"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        # the file
        (f"{CANARY} = x\n", "custodia.conf: line 1 stands before any [section]"),
        (f"[global]\n{CANARY}\n", "custodia.conf: line 2 is not NAME = VALUE"),
        ("[global]\ndebug = 1\ndebug = 0\n", "custodia.conf: line 3 says 'debug' twice"),
        ("[global]\n[global]\n", "custodia.conf: line 2 opens [global] twice"),
        ("[global]\nauditlog = ${nothing}\n" + WHOLE, "[global] auditlog: a ${…} in it names nothing"),
        ("[global]\nauditlog = ${store:file:dburi}\n" + WHOLE, "[global] auditlog: a ${…} in it names nothing"),
        (f"[global]\nauditlog = ${CANARY}\n" + WHOLE, "or a '$' stands alone (write $$)"),
        ("[global]\nauditlog = {{ place }}\n", "nothing fills the placeholder 'place'; give --set place=VALUE"),
        ("[nonsense]\n" + WHOLE, "[nonsense] is not a section of this file; sections are global, auth:…"),
        ("[store:]\n" + WHOLE, "[store:] is not a section of this file"),
        # global
        (
            "[global]\nserver_socket = /a\nserver_url = http+unix://%2Fa\n" + WHOLE,
            "and server_socket exclude each other",
        ),
        ("[global]\nserver_url = https://0.0.0.0:443\n" + WHOLE, "over TCP secrets are reached through the proxy"),
        ("[global]\ndebugg = 1\n" + WHOLE, "[global]: there is no 'debugg' here; did you mean 'debug'?"),
        (f"[global]\ndebug = {CANARY}\n" + WHOLE, "[global] debug: is true or false"),
        ("[global]\numask = 99\n" + WHOLE, "[global] umask: is an octal mode, such as 027"),
        # handlers
        ("[auth:x]\nheader = REMOTE_USER\n" + WHOLE, "[auth:x] handler: is required"),
        (
            "[auth:x]\nhandler = SimpleHeaderAuth\n" + WHOLE,
            "'SimpleHeaderAuth' is not supported here; supported: SimpleAuthKeys, SimpleCredsAuth",
        ),
        (
            "[authz:x]\nhandler = SimpleAuthKeys\n" + WHOLE,
            "not supported here; supported: SimplePathAuthz, UserNameSpace",
        ),
        ("[store:x]\nhandler = IPAVault\n" + WHOLE, "supported: EncryptedOverlay, EtcdStore, SqliteStore"),
        ("[/x]\nhandler = Forwarder\n" + WHOLE, "'Forwarder' is not supported here; supported: Root, Secrets"),
        ("[auth:x]\nhandler = SimpleAuthKeys\nid_heder = x\n" + WHOLE, "no 'id_heder' here; did you mean 'id_header'?"),
        ("[auth:x]\nhandler = SimpleAuthKeys\nid_header = a b\n" + WHOLE, "is a header's name"),
        (
            "[auth:x]\nhandler = SimpleAuthKeys\nstore = gone\n" + WHOLE,
            "store: there is no store: section of that name",
        ),
        ("[auth:x]\nhandler = SimpleCredsAuth\nuid = no-such-user\n" + WHOLE, "uid: this machine knows no such name"),
        ("[authz:x]\nhandler = SimplePathAuthz\n" + WHOLE, "paths: is required"),
        ("[authz:x]\nhandler = SimplePathAuthz\npaths = secrets\n" + WHOLE, "paths: each begins with a slash"),
        ("[authz:x]\nhandler = UserNameSpace\npath = secrets\n" + WHOLE, "path: begins with a slash"),
        # stores
        ("[store:x]\nhandler = SqliteStore\n" + WHOLE, "[store:x] dburi: is required"),
        ("[store:x]\nhandler = SqliteStore\ndburi = rel\n" + WHOLE, "dburi: is an absolute path"),
        ("[store:x]\nhandler = SqliteStore\ndburi = /d\nfilemode = 644\n" + WHOLE, "filemode: is 600 here"),
        ("[store:x]\nhandler = EtcdStore\netcd_port = 0\n" + WHOLE, "etcd_port: is a port number"),
        ("[store:x]\nhandler = EtcdStore\netcd_server = a/b\n" + WHOLE, "etcd_server: is a host name or address"),
        (
            "[store:x]\nhandler = EtcdStore\nnamespace = a/../b\n" + WHOLE,
            "namespace: is names joined by single slashes",
        ),
        ("[store:x]\nhandler = EtcdStore\nnamespace = a//b\n" + WHOLE, "namespace: is names joined by single slashes"),
        ("[store:x]\nhandler = EncryptedOverlay\nmaster_key = /k\n" + WHOLE, "backing_store: is required"),
        (WHOLE.replace("master_key = /key\n", ""), "[store:locked] master_key: is required"),
        (WHOLE.replace("backing_store = file", "backing_store = gone"), "there is no store: section of that name"),
        (WHOLE.replace("backing_store = file", "backing_store = locked"), "backing_store: leads round in a circle"),
        (
            "[store:x]\nhandler = EncryptedOverlay\nbacking_store = locked\nmaster_key = /k\n" + WHOLE,
            "backing_store: is an EncryptedOverlay itself",
        ),
        (WHOLE.replace("/key", "/key\nmaster_enctype = A128CBC-HS256"), "master_enctype: is A256CBC-HS512 here"),
        (WHOLE.replace("/key", "/key\nsecret_protection = encrypt"), "secret_protection: is 'pinning' here"),
        (WHOLE.replace("/key", "/key\nautogen_master_key = maybe"), "autogen_master_key: is true or false"),
        # what is served
        (STORES + WHO, "no [/secrets] section with handler Secrets says what to serve"),
        (WHOLE.replace("store = locked", "store = file"), "secrets are never stored in the clear"),
        (WHOLE.replace("[/secrets]", "[/other]"), "Secrets is served at [/secrets] only"),
        (WHOLE.replace("handler = Secrets\nstore = locked", "handler = Root"), "Root is served at [/] only"),
        (WHOLE + "[/x]\nhandler = Root\n", "Root is served at [/] only"),
        (
            WHOLE.replace("store = locked", "store = locked\nallowed_keytypes = simple kem"),
            "allowed_keytypes: is 'simple'",
        ),
    ],
)
def test_what_custodia_conf_may_not_say(short: Path, text: str, error: str) -> None:
    """Each mistake is named by section and option, or by line; no value is repeated, and nothing is passed over."""
    with pytest.raises(ConfigurationError) as caught:
        custodia(short, text)

    assert error in str(caught.value)
    assert CANARY not in str(caught.value)


def test_sections_may_come_in_any_order(short: Path) -> None:
    """A reference may point down the file as well as up."""
    assert custodia(short, SECRETS + WHO + STORES).values["store"] == "sqlite:/db"


@pytest.mark.parametrize(
    ("option", "value", "url"),
    [
        (None, None, "etcd://127.0.0.1:2379/custodia"),
        ("namespace", "/deep/er/", "etcd://127.0.0.1:2379/deep/er"),
        ("etcd_server", "[::1]", "etcd://[::1]:2379/custodia"),
    ],
)
def test_an_etcd_store_becomes_a_url(short: Path, option: str | None, value: str | None, url: str) -> None:
    """Server, port and namespace are the host, port and prefix of the store's URL."""
    line = f"{option} = {value}\n" if option else ""
    text = WHOLE.replace("handler = SqliteStore\ndburi = /db\n", f"handler = EtcdStore\n{line}")

    assert custodia(short, text).values["store"] == url
