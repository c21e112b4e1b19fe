"""What is read of a request's head."""

import pytest

from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.wire import head


@pytest.mark.parametrize("id_name", [b"custodia_auth_id", b"custodia-auth-id"])
@pytest.mark.parametrize(
    "key_name", [b"custodia_auth_key", b"custodia-auth-key", b"custodia_key_id", b"custodia-key-id"]
)
def test_credentials_in_every_spelling(id_name: bytes, key_name: bytes) -> None:
    """Underscores or dashes, Custodia's key header or the proposal's: all arrive as id and key."""
    read = head.read([(id_name, b"ci"), (key_name, b"k")])

    assert (read.auth_id, read.auth_key) == ("ci", "k")


@pytest.mark.parametrize(
    "names",
    [
        (b"custodia_auth_key", b"custodia-auth-key"),
        (b"custodia_auth_key", b"custodia_key_id"),
        (b"custodia-auth-id", b"custodia-auth-id"),
        (b"if-match", b"if-match"),
    ],
)
def test_two_spellings_are_refused(names: tuple[bytes, bytes]) -> None:
    """A field that stands twice is refused, because two readers could take either."""
    with pytest.raises(Invalid, match="twice"):
        head.read([(name, b"x") for name in names])


@pytest.mark.parametrize("name", [b"x-api-key", b"x_api_key"])
def test_configured_header_names(name: bytes) -> None:
    """A configuration may name the credential headers; Custodia's own go on being read."""
    fields = head.table_with("X_API_ID", "X_API_KEY")

    assert head.read([(name, b"k")], fields).auth_key == "k"
    assert head.read([(b"custodia-auth-key", b"k")], fields).auth_key == "k"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"0123456789abcdef", True),
        (b"short", False),
        (b"x" * 65, False),
        (b'a"\x00bcdefgh', False),
        (b"a b c d e f", False),
    ],
)
def test_request_ids(sent: bytes, kept: bool) -> None:
    """A well-formed request id is kept, anything else is replaced by a new one."""
    read = head.read([(b"x-request-id", sent)])

    assert (read.request_id == sent.decode("latin-1")) is kept
    assert read.request_id is not None and len(read.request_id) >= 8


def test_the_repr_holds_no_credentials() -> None:
    """The repr of a head shows its request id and nothing that came as a credential."""
    read = head.read([(b"custodia-auth-id", b"canary-id"), (b"custodia-auth-key", b"canary-key")])

    assert "canary" not in repr(read)


TRACE = "0af7651916cd43dd8448eb211c80319c"  # W3C Trace Context, section 3.2.4
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("sent", "trace"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"00-{TRACE}-{PARENT}-00", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", TRACE),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"cc-{TRACE}-{PARENT}-01.more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("", None),
    ],
)
def test_a_trace_is_told_by_its_id(sent: str, trace: str | None) -> None:
    """What W3C Trace Context calls valid has the id of its trace, whatever follows in later versions; all else none."""
    assert head.read([(b"traceparent", sent.encode())]).trace == trace


def test_what_says_two_traces_says_none() -> None:
    """A request is not refused for what traces it."""
    twice = [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())] * 2

    assert head.read(twice).trace is None
