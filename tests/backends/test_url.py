"""What of a store's URL is seen and written down: never its password, whatever is in it."""

import contextlib
import json
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from strongroom.migration.sources import SOURCES, open_source
from strongroom.models.secret import REDACTED
from strongroom.storage_service.backends.etcd.target import parse
from strongroom.storage_service.backends.url import masked, prefix, redacted, same_place, split, without_password
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.record_of_store import RecordOfStore

FIRST, LAST = "KaNa", "RiEn"
NASTY: Final = [
    f"{FIRST}{middle}{LAST}"
    for middle in (
        "",
        "@",
        "/",
        "?",
        "#",
        ":",
        "&",
        "%",
        "//",
        "://",
        " ",
        "\n",
        "é",
        "@/",
        "/@",
        "?x=",
        "&x=",
        "@h/p@",
        ":@",
    )
] + [f"2379/{FIRST}@{LAST}", f"1?cacert={FIRST}@{LAST}"]


def pieces_in(text: str, password: str) -> list[str]:
    """Return what of *password* stands in *text*."""
    return [piece for piece in (FIRST, LAST) if piece in password and piece in text]


@pytest.mark.parametrize("password", NASTY)
@pytest.mark.parametrize(
    "url",
    [
        "etcd://u:{}@h:2379/x",
        "etcd://u:{}@a,b/x?timeout=2",
        "etcd://u@h/x?password={}",
        "u:{}@h:2379",
        "https://u:{}@h",
    ],
)
def test_no_piece_of_a_password_is_seen_or_kept(tmp_path: Path, url: str, password: str) -> None:
    """It ends at the last @ of all, or with the options; what is unclear is hidden whole."""
    said = url.format(password)

    assert not pieces_in(masked(said) + without_password(said) + str(redacted([{"a": (said,)}])), password)
    for kind in SOURCES:  # a place that is none of its kind is named in errors
        with pytest.raises(ConfigurationError) as refused:
            open_source(kind, said, {})
        assert not pieces_in(str(refused.value), password)
    (tmp_path / "store.json").write_text(json.dumps({"store": said}))  # as somebody wrote it by hand
    if said.isprintable():
        with pytest.raises(ConfigurationError, match="records are in") as refused:
            RecordOfStore(tmp_path / "store.json").refuse_another("sqlite:/s.db")
        assert not pieces_in(str(refused.value), password)
        RecordOfStore(tmp_path / "store.json").keep(said)
        assert not pieces_in((tmp_path / "store.json").read_text(), password)


@pytest.mark.parametrize("password", NASTY)
def test_what_a_store_takes_for_a_password_is_what_is_hidden(password: str) -> None:
    """A bare password is refused, or ends where it is hidden; an encoded one is taken whole."""
    bare = f"etcd://u:{password}@h:2379/x"
    taken = None
    with contextlib.suppress(ConfigurationError, ValueError):
        taken = parse(split(bare), {}, {})
    if taken is not None:
        assert (taken.user, taken.endpoints) == ("u", ("h:2379",))
        assert masked(bare) == f"etcd://u:{REDACTED}@h:2379/x"
        assert without_password(bare) == "etcd://u@h:2379/x"

    encoded = f"etcd://u:{quote(password, safe='')}@h:2379/x"
    assert parse(split(encoded), {}, {}).password.reveal() == password
    assert without_password(encoded) == "etcd://u@h:2379/x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "etcd://u:p@h/x?timeout=2&password=p&cert=/c",
            f"etcd://u:{REDACTED}@h/x?timeout=2&password={REDACTED}&cert=/c",
        ),
        ("etcd://u@h?p%61ssword=p", f"etcd://u@h?p%61ssword={REDACTED}"),
        ("etcd://u@h:1,[::1]:2/x?key=/k.pem", "etcd://u@h:1,[::1]:2/x?key=/k.pem"),
        ("etcd://u:@h", f"etcd://u:{REDACTED}@h"),
        ("sqlite:/srv/a@b:c?x.db?busy_timeout=1", "sqlite:/srv/a@b:c?x.db?busy_timeout=1"),
        ("/srv/x:y@z/?", "/srv/x:y@z/?"),
        ("http+unix://%2Frun%2Fs.sock/", "http+unix://%2Frun%2Fs.sock/"),
        ("memory:", "memory:"),
    ],
)
def test_the_place_is_seen(text: str, shown: str) -> None:
    """Whom we are there, hosts, prefix, options and files are shown as they are."""
    assert masked(text) == shown


def test_an_at_in_a_prefix_is_encoded() -> None:
    """A prefix may have an @, as %40; bare it is refused, for a password could end there."""
    assert parse(split("etcd://a:1/x%40y"), {}).prefix == "/x@y/"
    assert prefix("/x%40y/") == "x@y"
    assert same_place("etcd://a/x%40y", "etcd://a/x@y")  # as an earlier record has it
    with pytest.raises(ConfigurationError, match="write any other one as %40"):
        parse(split("etcd://a:1/x@y"), {})
