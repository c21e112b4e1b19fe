"""The table of credentials: each kind has one spelling for one thing, and says what no two may share."""

import pytest

from strongroom.models.access import InvalidAccess
from strongroom.storage_service.access.credentials.registry import CREDENTIALS, kind_named

GIVEN = {
    "password": "$2b$12$" + "a" * 53,
    "access-key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB ann",
    "certificate": "spiffe://example.net/runner",
    "process": "007",
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_every_kind_has_what_the_table_promises(name: str) -> None:
    """What a kind keeps it keeps as it is, and tells of it without an error."""
    kind = kind_named(name)
    kept = kind.canonical(GIVEN[name])

    assert kind.canonical(kept) == kept
    assert kind.identity(kept) == kind.identity(kind.canonical(GIVEN[name]))
    assert all(kind.shown(kept).values())
    with pytest.raises(InvalidAccess):
        kind.canonical("canary")


def test_another_kind_is_refused() -> None:
    """A kind that is not in the table is refused with those that are, and not repeated."""
    with pytest.raises(InvalidAccess, match=r"^a credential is of kind password, access-key, certificate, process$"):
        kind_named("canary")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("spiffe://example.net/runner", "spiffe://example.net/runner"),
        (" https://example.net:8443/a/b ", "https://example.net:8443/a/b"),
        ("SHA256:" + "AB" * 32, "SHA256:" + "ab" * 32),
        ("sha256:" + ":".join(["AB"] * 32), "SHA256:" + "ab" * 32),
    ],
)
def test_a_certificate_has_one_spelling(given: str, kept: str) -> None:
    """A URI is kept as it is, a fingerprint in small letters without colons."""
    assert kind_named("certificate").canonical(given) == kept


@pytest.mark.parametrize(
    "given", ["", "runner", "spiffe://", "spiffe://a b", "SHA256:ab", "spiffe://a/" + "b" * 2048, "spiffe://a/\n/b"]
)
def test_what_names_no_certificate_is_refused(given: str) -> None:
    """A bare name, an empty host, a short fingerprint and an endless URI are refused."""
    with pytest.raises(InvalidAccess, match="fingerprint"):
        kind_named("certificate").canonical(given)


@pytest.mark.parametrize("given", ["", "-1", "1.5", "root", "4294967295", "\u0661", "1" * 11])
def test_what_is_no_uid_is_refused(given: str) -> None:
    """A uid is a whole number that the kernel could tell."""
    with pytest.raises(InvalidAccess, match=r"^a uid is a whole number"):
        kind_named("process").canonical(given)
