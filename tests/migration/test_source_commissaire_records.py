"""Commissaire's values as records: what becomes what, what cannot, what stays behind, and what a scrub leaves."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.migration.records import Record
from strongroom.migration.sources.commissaire import records, spelling
from tests.migration.sources.commissaire import container_manager, host

PEM: Final = "-----BEGIN OPENSSH PRIVATE KEY-----\nGrüße\n-----END OPENSSH PRIVATE KEY-----\n"
KEY: Final = base64.b64encode(PEM.encode()).decode()


def shown(record: Record) -> dict[str, Any]:
    """Return a record's fields."""
    text = record.value.reveal().encode()
    fields: dict[str, Any] = json.loads(base64.b64decode(text) if record.sealed else text)
    return fields


class Story(NamedTuple):
    """A key and its value; some fields of the records that it becomes; words of its notes; what a scrub leaves."""

    title: str
    path: str
    value: Mapping[str, Any]
    becomes: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str] = ()
    scrubbed: Mapping[str, Any] | None = None  # None: the same


STORIES: Final = [
    Story(
        "a host of old",
        "hosts/10.0.0.7",
        host("10.0.0.7", KEY, "fedora"),
        {
            "hosts/10.0.0.7": {"address": "10.0.0.7", "status": "active", "os": "fedora", "cpus": 2},
            "secrets/hosts/10.0.0.7": {"address": "10.0.0.7", "ssh_priv_key": KEY, "remote_user": "fedora"},
        },
        scrubbed={n: v for n, v in host("10.0.0.7").items() if n not in ("ssh_priv_key", "remote_user")},
    ),
    Story(
        "a host whose key is PEM",
        "hosts/h",
        {"address": "h", "ssh_priv_key": PEM},
        {"hosts/h": {}, "secrets/hosts/h": {"ssh_priv_key": KEY, "remote_user": "root"}},
        ["is PEM"],
        {"address": "h"},
    ),
    Story(
        "a host whose base64 has lines",
        "hosts/h",
        {"address": "h", "ssh_priv_key": f"{KEY[:20]}\n{KEY[20:]}\r\n"},
        {"hosts/h": {}, "secrets/hosts/h": {"ssh_priv_key": KEY}},
        ["broken into lines"],
        {"address": "h"},
    ),
    Story(
        "a host without a key",
        "hosts/h",
        {"address": "h", "ssh_priv_key": "", "remote_user": "root"},
        {"hosts/h": {}},
        ["a host alone"],
    ),
    Story(
        "a host whose key is null",
        "hosts/h",
        {"address": "h", "ssh_priv_key": None, "remote_user": None},
        {"hosts/h": {}},
        ["a host alone"],
    ),
    Story("a host of today", "hosts/h", {"address": "h", "status": "failed"}, {"hosts/h": {"status": "failed"}}),
    Story(
        "a user and no key",
        "hosts/h",
        {"address": "h", "ssh_priv_key": "", "remote_user": "fedora"},
        {"hosts/h": {}, "secrets/hosts/h": {"ssh_priv_key": "", "remote_user": "fedora"}},
        ["remote_user alone"],
        {"address": "h"},
    ),
    Story("an IPv6 address", "hosts/fe80::1", {"address": "fe80::1"}, {"hosts/fe80::1": {"address": "fe80::1"}}),
    Story(
        "types that Commissaire mended",
        "hosts/h",
        {"address": "h", "cpus": "4", "memory": 1024.0, "space": None, "last_check": 0},
        {"hosts/h": {"cpus": 4, "memory": 1024, "space": 0, "last_check": "0"}},
        ["cpus is text", "memory is a number", "space is null", "last_check is a whole number"],
    ),
    Story("no address", "hosts/h", {}, {"hosts/h": {"address": "h"}}, ["taken from the key"]),
    Story(
        "fields that nobody knows",
        "hosts/h",
        {"address": "h", "rack": KEY, "a b": 1, **{f"x{n}": 0 for n in range(9)}},
        {"hosts/h": {}},
        ["stays behind, for no record has such a field: rack, (a name that is not shown), x0", "and 3 more"],
    ),
    Story(
        "unicode",
        "networks/n",
        {"name": "n", "options": {"Grüße": "東京 \U0001f511"}},
        {"networks/n": {"type": "flannel_etcd", "options": {"Grüße": "東京 \U0001f511"}}},
    ),
    Story(
        "a cluster",
        "clusters/c",
        {"name": "c", "status": "ok", "hostset": ["h"], "network": "default", "container_manager": "m"},
        {"clusters/c": {"hostset": ["h"], "container_manager": "m"}},
    ),
    Story(
        "a deployment",
        "cluster/c/deploy",
        {"name": "c", "version": "7.1", "deployed": ["h"], "status": "finished"},
        {"cluster_deploys/c": {"version": "7.1", "deployed": ["h"]}},
    ),
    Story("a restart", "cluster/c/restart", {"name": "c"}, {"cluster_restarts/c": {"restarted": []}}),
    Story("an upgrade", "cluster/c/upgrade", {"name": "c"}, {"cluster_upgrades/c": {"upgraded": []}}),
    Story(
        "a container manager with all secrets",
        "container_managers/m",
        container_manager("m", token="t" * 20, username="u", password="p", certificate_path=PEM, certificate_key=PEM),
        {
            "container_managers/m": {"options": {"server_url": "https://127.0.0.1:8080/"}},
            "secrets/container_managers/m": {
                "token": "t" * 20,
                "username": "u",
                "password": "p",
                "certificate": PEM,
                "certificate_key": PEM,
            },
        },
        ["token, username, password, certificate_path, certificate_key"],
        container_manager("m"),
    ),
    Story(
        "a container manager with files",
        "container_managers/m",
        container_manager("m", certificate_path="/etc/pki/m.pem", certificate_key_path="/etc/pki/m.key", token=""),
        {"container_managers/m": {"options": container_manager("m", certificate_path="/etc/pki/m.pem",
            certificate_key_path="/etc/pki/m.key", token="")["options"]}},
    ),
    Story("the status", "status", {"status": "OK"}, {}, ["stays behind"]),
    Story("a configuration", "config/storage.conf", {"password": "p"}, {}, ["may hold passwords"]),
    Story("another key", "hosts", {"address": "h"}, {}, ["not a record of Commissaire's"]),
    Story("an operation without a cluster", "cluster/deploy", {"name": "c"}, {}, ["not a record of Commissaire's"]),
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title.replace(" ", "-"))
def test_what_a_value_becomes(story: Story) -> None:
    """A value becomes the records that it should, tells what is mended or stays; a scrub takes what moved sealed."""
    value = json.dumps(story.value).encode()
    reading = records.read(story.path, value)

    assert reading.fault == ""
    assert [record.name for record in reading.records] == list(story.becomes)
    for record, fields in zip(reading.records, story.becomes.values(), strict=True):
        assert shown(record).items() >= fields.items()
        assert record.sealed or record.model().record_name == record.name
        assert records.path_of(record.name) == story.path
    notes = "\n".join(reading.notes)
    assert all(words in notes for words in story.notes), notes
    assert bool(notes) == bool(story.notes)
    assert KEY not in notes

    left = records.scrubbed(story.path, value)
    assert left == (value if story.scrubbed is None else json.dumps(story.scrubbed).encode())
    assert records.holds_secrets(story.path, value) is (story.scrubbed is not None)
    assert not records.holds_secrets(story.path, left)
    assert all(pattern not in left for pattern in records.search_patterns(story.path, value, nested=True))
    assert records.scrubbed(story.path, left) == left


class Fault(NamedTuple):
    """A key and a value that cannot move, and words of why."""

    title: str
    path: str
    value: bytes
    says: str


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


FAULTS: Final = [
    Fault("empty", "hosts/h", b"", "not JSON"),
    Fault("no JSON", "hosts/h", b'{"ssh_priv_key": "canary', "not JSON"),
    Fault("no UTF-8", "hosts/h", b'{"address": "h", "os": "\xff"}', "not UTF-8"),
    Fault("no object", "hosts/h", b'["canary"]', "not a JSON object"),
    Fault("a member twice", "hosts/h", b'{"address": "h", "address": "h"}', "twice"),
    Fault("not a number", "hosts/h", b'{"address": "h", "cpus": NaN}', "NaN"),
    Fault("nested without end", "networks/n", b'{"name": ' + b"[" * 9999 + b"]" * 9999 + b"}", "nested"),
    Fault("unknown state", "hosts/h", _json(address="h", status="canary"), "status must be"),
    Fault("wrong type", "hosts/h", _json(address="h", cpus=["canary"]), "cpus must be"),
    Fault("a part of a processor", "hosts/h", _json(address="h", cpus=1.5), "cpus must be"),
    Fault("bad base64", "hosts/h", _json(address="h", ssh_priv_key="canary!"), "ssh_priv_key must be base64"),
    Fault("a key that is no text", "hosts/h", _json(address="h", ssh_priv_key=["canary"]), "ssh_priv_key must be text"),
    Fault("a user that is no text", "hosts/h", _json(address="h", remote_user=7), "remote_user must be text"),
    Fault("PEM that is no text", "hosts/h", b'{"ssh_priv_key": "-----BEGIN \\ud800"}', "half of a surrogate pair"),
    Fault("a masked key", "hosts/h", _json(address="h", ssh_priv_key="*" * 8), "mask"),
    Fault("another's address", "hosts/h", _json(address="canary"), "not the one of its key"),
    Fault("a name that is none", "hosts/a b", _json(address="a b"), "must be one segment"),
    Fault("a name in a folder", "hosts/a/b", _json(address="a/b"), "must be one segment"),
    Fault("an address that is no text", "hosts/\udcff", _json(), "must be text"),
    Fault("too large", "hosts/h", _json(address="h", ssh_priv_key="A" * 512 * 1024), "larger than 512 KiB"),
    Fault("a plain one too large", "clusters/c", _json(name="c", hostset=["h" * 512 * 1024]), "larger than 512 KiB"),
    Fault("no version", "cluster/c/deploy", _json(name="c"), "version must not be empty"),
    Fault("unknown manager", "container_managers/m", _json(name="m", type="canary"), "type must be"),
    Fault("unknown secret", "container_managers/m", _json(name="m", options={"api_key": "canary"}), "token, password"),
    Fault("PEM elsewhere", "container_managers/m", _json(name="m", options={"ca": PEM}), "key material"),
    Fault(
        "a URL", "container_managers/m", _json(name="m", options={"u": "https://u:canary@h/"}), "URL with a password"
    ),
    Fault("a token that is no text", "container_managers/m", _json(name="m", options={"token": ["canary"]}), "token"),
    Fault(
        "two certificates",
        "container_managers/m",
        _json(name="m", options={"certificate": PEM, "certificate_path": PEM}),
        "two values",
    ),
    Fault("options that are none", "container_managers/m", _json(name="m", options=["canary"]), "must be an object"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title.replace(" ", "-"))
def test_what_cannot_move_says_why_and_not_what(fault: Fault) -> None:
    """A malformed value is a fault that names the rule and repeats nothing, and nobody dares to scrub it."""
    reading = records.read(fault.path, fault.value)

    assert fault.says in reading.fault
    assert reading.records == ()
    assert "canary" not in f"{reading.fault} {reading.notes}"
    assert records.scrubbed(fault.path, fault.value) is None
    assert records.holds_secrets(fault.path, fault.value)
    assert records.search_patterns(fault.path, fault.value, nested=True) == []


def test_no_other_record_has_a_key() -> None:
    """Names of records that Commissaire had no keys for lead to none."""
    names = ["secrets/generic/x", "system/keyring/keys", "watcher_records/h", "hosts", "secrets/hosts/sub/h"]

    assert [records.path_of(name) for name in names] == [None] * len(names)


# Spelling.


def test_the_rest_keeps_its_spelling() -> None:
    """Where a member is taken out, numbers, escapes, order and inner blanks of the others stay as they were."""
    text = b' { "ssh_priv_key" :"%s", "memory" : 1E3,\n"x": [1.10 , "\\u00fc\\/"], "address":"h"} ' % KEY.encode()
    text = text.replace(b"1E3", b"1000.0")
    left = records.scrubbed("hosts/h", text)

    assert left == b'{"memory" : 1000.0, "x": [1.10 , "\\u00fc\\/"], "address":"h"}'


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.floats(allow_nan=False) | st.text(), st.lists), max_size=5),
    st.dictionaries(st.text(), st.text(), max_size=4),
    st.booleans(),
)
def test_taking_members_out_is_taking_them_out(values: dict[str, Any], inner: dict[str, str], loose: bool) -> None:
    """Whatever an object holds, without some members it is what a parser says, at both depths."""
    values["options"] = inner
    text = json.dumps(values, indent=1 if loose else None, ensure_ascii=loose)
    gone = list(values)[:1]
    below = list(inner)[:2]
    paths: list[spelling.Path] = [*((name,) for name in gone), *(("options", name) for name in below)]
    left = json.loads(spelling.without(text, paths))

    kept = {name: value for name, value in values.items() if name not in gone}
    if "options" in kept:
        kept["options"] = {name: value for name, value in inner.items() if name not in below}
    assert left == kept
    assert list(left) == list(kept)


# Patterns.


class Pattern(NamedTuple):
    """A secret as a container manager's token is spelt, and what is looked for."""

    title: str
    spelt: str
    patterns: Sequence[bytes]
    nested: Sequence[bytes] = ()


PATTERNS: Final = [
    Pattern("long", '"abcdefghijklmnop"', [b"abcdefghijklmnop"]),
    Pattern("short", '"abc"', [b'"token" : "abc"'], [b'\\"token\\" : \\"abc\\"']),
    Pattern("escaped", '"abcdefgh\\u00fc\\n\\/"', [b"abcdefgh\\u00fc\\n\\/"], [b"abcdefgh\\\\u00fc\\\\n\\\\/"]),
    Pattern("as it is", '"abcdefghijklmnopü"', ["abcdefghijklmnopü".encode()]),
    Pattern("marks", '"abcdefghijklmnop<>&"', [b"abcdefghijklmnop<>&"], [b"abcdefghijklmnop\\u003c\\u003e\\u0026"]),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.title.replace(" ", "-"))
def test_a_secret_is_looked_for_as_it_is_spelt(pattern: Pattern) -> None:
    """Patterns are bytes of the value; a short one has its member's name; escapes are escaped where JSON is in JSON."""
    value = f'{{"name": "m", "options": {{"token" : {pattern.spelt}, "username": "root"}}}}'.encode()

    assert list(records.search_patterns("container_managers/m", value, nested=False)) == list(pattern.patterns)
    nested = records.search_patterns("container_managers/m", value, nested=True)
    assert list(nested) == [*pattern.patterns, *pattern.nested]
    assert all(each in value for each in pattern.patterns)
