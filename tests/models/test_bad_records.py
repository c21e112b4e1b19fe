"""The rules of Commissaire's models, as a table of what breaks them and what is then said."""

from typing import Any

import pytest

from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    HostStatus,
    Model,
    Network,
    ValidationError,
    WatcherRecord,
)
from strongroom.models.hosts import HostState

HOST_STATES = "must be empty or one of: investigating, bootstrapping, active, disassociated, failed"
OPERATION_STATES = "must be empty or one of: in_process, finished, failed"
MOMENT = "must be a date and time like 2016-11-05T16:04:59.000001"
BASE64 = "must be base64 on one line"
TOKEN = "holds a token, password or key, which belongs in the secret record of the same name"
MATERIAL = "holds key material, which belongs in the secret record of the same name"
IN_COMMAND = "holds a command with a password, which belongs in the secret record of the same name"
IN_URL = "holds a URL with a password, which belongs in the secret record of the same name"
NO_NUMBER = "holds a number that JSON cannot carry"


def nested(depth: int) -> Any:
    """Return *depth* objects inside one another."""
    return {"a": nested(depth - 1)} if depth else 1


BAD: list[tuple[type[Model], dict[str, Any], list[tuple[str, str]]]] = [
    (Host, {"address": "a", "status": "aktive"}, [("status", HOST_STATES)]),
    (Host, {"address": "a", "status": "ACTIVE"}, [("status", HOST_STATES)]),
    (Host, {"address": "a", "status": ["active"]}, [("status", HOST_STATES)]),
    (Host, {"address": "a", "os": "beos"}, [("os", "must be empty or one of: atomic, centos, fedora, redhat, rhel")]),
    (Host, {"address": "a", "cpus": True}, [("cpus", "must be a whole number")]),
    (Host, {"address": "a", "cpus": 1.0}, [("cpus", "must be a whole number")]),
    (Host, {"address": "a", "cpus": "1"}, [("cpus", "must be a whole number")]),
    (Host, {"address": "a", "space": 2**63}, [("space", "must be a whole number of at most 64 bits")]),
    (Host, {"address": "a", "source": None}, [("source", "must be text")]),
    (Host, {"address": "a", "ssh_priv_key": ""}, [("(unknown)", "is not a field of Host")]),
    (
        Host,
        {"address": "", "status": 1, "cpus": [], "cluster": "", "x": 1},
        [
            ("address", "must not be empty"),
            ("status", HOST_STATES),
            ("cpus", "must be a whole number"),
            ("(unknown)", "is not a field of Host"),
        ],
    ),
    (HostCreds, {}, [("address", "is required")]),
    (HostCreds, {"address": "a", "ssh_priv_key": "no key"}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "-----BEGIN RSA PRIVATE KEY-----"}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "YWJj\n"}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "YWJjZA"}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "YWJj===="}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "_-8="}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": "YWJjä"}, [("ssh_priv_key", BASE64)]),
    (HostCreds, {"address": "a", "ssh_priv_key": 7}, [("ssh_priv_key", "must be text")]),
    (
        HostCreds,
        {"address": "a", "ssh_priv_key": "********"},
        [("ssh_priv_key", "is the mask of a safe form, not the secret itself")],
    ),
    (HostStatus, {"host": []}, [("host", "must be an object")]),
    (Cluster, {"name": "c", "status": "fine"}, [("status", "must be empty or one of: ok, degraded, failed")]),
    (Cluster, {"name": "c", "hostset": "a"}, [("hostset", "must be a list")]),
    (Cluster, {"name": "c", "hostset": ["a", 7, None]}, [("hostset", "holds an item that must be text")]),
    (Cluster, {"name": "c", "hosts": {"total": 0}}, [("(unknown)", "is not a field of Cluster")]),
    (ClusterDeploy, {"name": "c"}, [("version", "must not be empty")]),
    (ClusterDeploy, {"name": "", "version": ""}, [("name", "must not be empty"), ("version", "must not be empty")]),
    (ClusterDeploy, {"name": "c", "version": "1", "status": "ok"}, [("status", OPERATION_STATES)]),
    (ClusterRestart, {"name": "c", "restarted": None}, [("restarted", "must be a list")]),
    (Network, {"name": "n", "type": "flannel"}, [("type", "must be one of: flannel_etcd, flannel_server")]),
    (Network, {"name": "n", "type": ""}, [("type", "must be one of: flannel_etcd, flannel_server")]),
    (Network, {"name": "n", "options": None}, [("options", "must be an object")]),
    (Network, {"name": "n", "options": {1: 1}}, [("options", "holds something that JSON cannot carry")]),
    (Network, {"name": "n", "options": {"a": {1, 2}}}, [("options", "holds something that JSON cannot carry")]),
    (Network, {"name": "n", "options": {"a": b"x"}}, [("options", "holds something that JSON cannot carry")]),
    (Network, {"name": "n", "options": {"a": float("nan")}}, [("options", NO_NUMBER)]),
    (Network, {"name": "n", "options": {"a": [-float("inf")]}}, [("options", NO_NUMBER)]),
    (Network, {"name": "n", "options": {"a": 2**64}}, [("options", NO_NUMBER)]),
    (Network, {"name": "n", "options": {"\ud800": 1}}, [("options", "holds text that UTF-8 cannot carry")]),
    (Network, {"name": "n", "options": nested(32)}, [("options", "is nested deeper than 32")]),
    (WatcherRecord, {"address": "a", "last_check": ""}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2016-11-05T16:04:59"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2016-11-05T16:04:59.1Z"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2016-13-05T16:04:59.1"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2016-11-31T16:04:59.1"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2015-02-29T16:04:59.1"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "1900-02-29T16:04:59.1"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "0000-01-01T00:00:00.0"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "2016-11-05T24:04:59.1"}, [("last_check", MOMENT)]),
    (WatcherRecord, {"address": "a", "last_check": "\uff12016-11-05T16:04:59.1"}, [("last_check", MOMENT)]),
    (ContainerManagerConfig, {"name": "m", "type": "kube"}, [("type", "must be one of: openshift, trivial")]),
    *[
        (ContainerManagerConfig, {"name": "m", "options": options}, [("options", reason)])
        for options, reason in (
            ({"token": "x"}, TOKEN),
            ({"TOKEN": "x"}, TOKEN),
            ({"api-token": "x"}, TOKEN),
            ({"serviceAccountToken": "x"}, TOKEN),
            ({"authtoken": "x"}, TOKEN),
            ({"password": "x"}, TOKEN),
            ({"certificate_key": "x"}, TOKEN),
            ({"key-data": "x"}, TOKEN),
            ({"APIKey": "x"}, TOKEN),
            ({"client_secret": "x"}, TOKEN),
            ({"auth": {"password": "x"}}, TOKEN),
            ({"users": [{"name": "a", "passwd": "x"}]}, TOKEN),
            ({"tokens": ["x"]}, TOKEN),
            *(
                ({name: "x"}, TOKEN)
                for name in (
                    *("pass", "pw", "psk", "pwd", "db_pass", "bind_pw", "enable_pass", "wifiPSK", "rootpw", "dbPass"),
                    *("passphrase", "apitoken", "aws_credential", "creds", "smtp-pass", "pass2"),
                )
            ),
            ({"ssh_args": "-o ProxyCommand='sshpass -p hunter2 ssh -W %h:%p b'"}, IN_COMMAND),
            ({"certificate": "-----BEGIN CERTIFICATE-----"}, MATERIAL),
            ({"ca": ["-----BEGIN EC PRIVATE KEY-----"]}, MATERIAL),
            ({"client": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}, MATERIAL),
            ({"server_url": "https://admin:pw@10.0.0.1:8443/"}, IN_URL),
            ({"server_url": "https://:pw@10.0.0.1"}, IN_URL),
        )
    ],
    (ContainerManagerCreds, {"name": "m", "token": {}}, [("token", "must be text")]),
]


@pytest.mark.parametrize(("model", "form", "faults"), BAD)
def test_a_rule_is_kept_and_named(model: type[Model], form: dict[str, Any], faults: list[tuple[str, str]]) -> None:
    """Each broken rule is one fault: its field and its reason."""
    with pytest.raises(ValidationError) as raised:
        model.from_dict(form)

    assert faults == list(raised.value.faults)
    assert model.__name__ == raised.value.model


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (Host, {"address": "a"}),
        (HostCreds, {"address": "a", "ssh_priv_key": "YWJjZA=="}),
        (WatcherRecord, {"address": "a", "last_check": "2016-02-29T23:59:59.999999"}),
        (WatcherRecord, {"address": "a", "last_check": "2000-02-29T00:00:00.000000"}),
        (Network, {"name": "default", "options": {"a": [1, 2.5, None, True, {"b": "ä"}]}}),
        (Network, {"name": "n", "options": nested(31)}),
        (ContainerManagerConfig, {"name": "m", "options": {"server_url": "https://10.0.0.1:8443/a@b"}}),
        (ContainerManagerConfig, {"name": "m", "options": {"certificate_key_path": "/etc/tls.key"}}),
        (ContainerManagerConfig, {"name": "m", "options": {"token-file": "/etc/token", "key_id": "7", "token": ""}}),
        (ContainerManagerConfig, {"name": "m", "options": {"public_key": "x", "monkey": 1, "keyboard": "de", "": 1}}),
        (ContainerManagerConfig, {"name": "m", "options": {"bypass": 1, "compass": "n", "passive": 1, "pwm": 1}}),
        (ContainerManagerConfig, {"name": "m", "options": {"pass_file": "/etc/pass", "ask": "sshpass -f /etc/pass"}}),
        (ContainerManagerConfig, {"name": "m", "options": {"ca": {"path": "/etc/ca.pem"}}}),
    ],
)
def test_what_no_rule_forbids_is_taken(model: type[Model], form: dict[str, Any]) -> None:
    """The rules stop where they should."""
    assert form.items() <= model.from_dict(form).to_dict().items()


def test_the_defaults_are_commissaires() -> None:
    """What is not given is as CPD-101 and Commissaire have it."""
    assert HostCreds(address="a").to_dict() == {"address": "a", "ssh_priv_key": "", "remote_user": "root"}
    assert Host().to_dict() == {
        "address": "",
        "status": "",
        "os": "",
        "cpus": 0,
        "memory": 0,
        "space": 0,
        "last_check": "",
        "source": "",
    }
    assert Cluster(name="c").to_dict() == {
        "name": "c",
        "status": "",
        "network": "default",
        "hostset": [],
        "container_manager": "",
    }
    assert Network(name="n").to_dict() == {"name": "n", "type": "flannel_etcd", "options": {}}
    assert ContainerManagerConfig(name="m").to_dict() == {"name": "m", "type": "openshift", "options": {}}
    assert WatcherRecord().last_check == "9999-12-31T23:59:59.999999"
    assert HostStatus().to_dict() == {"type": "", "host": {}, "container_manager": {}}


def test_new_takes_text_for_a_state() -> None:
    """A record built from text holds members of its enumerations, equal to their text."""
    host = Host.new(address="a", status="active")

    assert host.status is HostState.ACTIVE
    assert host.to_dict()["status"] == "active"


def test_a_clusters_hosts_are_hidden() -> None:
    """The safe form of a cluster says nothing of its hosts, as in Commissaire."""
    assert "hostset" not in Cluster(name="c", hostset=["10.0.0.7"]).to_dict_safe()


def test_a_record_in_a_log_is_one_short_line() -> None:
    """A repr says what is empty, how much is in a list, and breaks no line."""
    assert repr(Host(address="10.0.0.7", last_check="a\nb")) == (
        "<Host address=10.0.0.7, status=<Empty>, os=<Empty>, cpus=<Empty>, memory=<Empty>, space=<Empty>, "
        "last_check='a\\nb', source=<Empty>>"
    )
    assert "options=<1 items>" in repr(ContainerManagerConfig(name="m", options={"token": "x"}))


def test_an_answer_has_no_name() -> None:
    """A host's status is never stored, so it has nothing that could be stored under."""
    with pytest.raises(TypeError, match="HostStatus is never stored"):
        HostStatus.prefix()
    with pytest.raises(TypeError):
        HostStatus.name_of("a")


def test_new_knows_its_fields() -> None:
    """An unknown or a missing argument is a mistake of the program, not of the record."""
    with pytest.raises(TypeError):
        Host.new(adress="a")
    with pytest.raises(TypeError):
        HostCreds.new()
