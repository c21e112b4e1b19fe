"""What the shell is told: one exit code for each error, and one line that says what to do."""

import json
from pathlib import Path

import click
import pytest

from strongroom.deploy.cli import exits, up
from strongroom.deploy.cli.common import Common, Form
from strongroom.models.errors import Fault, InvalidName, ModelError, ValidationError
from strongroom.models.steps import Step
from strongroom.storage_service import errors, wire
from strongroom.storage_service.errors import StrongroomError


def leaves(kind: type[BaseException]) -> list[type[BaseException]]:
    """Return *kind* and every class that derives from it."""
    return [kind, *(each for child in kind.__subclasses__() for each in leaves(child))]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (click.UsageError("No such option: --x"), 1, "strongroom: no such option: --x"),
        (InvalidName("a name is segments"), 1, "strongroom: a name is segments"),
        (ValidationError("Host", [Fault("cpus", "must not be negative")]), 1, "strongroom: host is invalid: cpus must"),
        (errors.Invalid("the record is not valid", (("cpus", "is no number"),)), 2, "valid: cpus is no number"),
        (errors.ConfigurationError("strongroom.toml: no"), 2, "strongroom: strongroom.toml: no"),
        (
            errors.NotListening("the service at /s does not listen"),
            2,
            "see that it runs: strongroom up",
        ),
        (errors.Unavailable("the store cannot do this now"), 2, "strongroom: the store cannot do this now"),
        (errors.ConfigurationError("OpenSSL does not take it"), 2, "strongroom: OpenSSL does not take it"),
        (
            errors.AuditUnavailable("the log is full"),
            2,
            "the log is full; see that its audit log can be written; its own log says more",
        ),
        (errors.Internal("oh"), 2, "strongroom: oh"),
        (errors.Locked("the service is locked"), 3, "strongroom: the service is locked"),
        (errors.Uninitialized("no keyring"), 3, "strongroom: no keyring"),
        (errors.Halted("not reverted", ("default.2: secrets/a",)), 2, "not reverted (default.2: secrets/a)"),
        (errors.WrongKey("it opens nothing"), 6, "strongroom: it opens nothing"),
        (errors.TooManyAttempts("wait before the next", 7.6), 2, "wait before the next: 8 seconds"),
        (errors.InUse("it is in use", ("secrets/a", "secrets/b")), 5, "it is in use (secrets/a, secrets/b)"),
        (errors.Overtaken("somebody was faster"), 5, "strongroom: somebody was faster"),
        (errors.Unusable("secrets.key is no key; put it back"), 2, "secrets.key is no key; put it back"),
        (errors.NotFound("there is no such secret"), 4, "strongroom: there is no such secret"),
        (errors.NoContainer("no container"), 4, "make it first: strongroom secret mkdir CONTAINER"),
        (errors.Exists("it exists"), 5, "strongroom: it exists"),
        (errors.Contradicted("there is another of that name"), 5, "strongroom: there is another of that name"),
        (errors.NotEmpty("it is not empty"), 5, "remove what it holds first"),
        (errors.Changed("it has changed"), 5, "read it again and decide anew"),
        (errors.NotAuthenticated("no credentials"), 6, "say whose key to use: --home DIR"),
        (
            errors.Denied("not allowed"),
            6,
            "; see whom the service takes you for, if it knows you: strongroom whoami; the audit log has",
        ),
        (click.Abort(), 130, "strongroom: interrupted"),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: int, line: str) -> None:
    """The code follows the kind of error; the line is one, and says what is wrong and what to do."""
    written: list[str] = []

    assert exits.report(error, written.append) == code
    assert len(written) == 1
    assert line in written[0]
    assert "\n" not in written[0]


def test_what_can_be_done_leads_to_the_service_that_was_meant() -> None:
    """Steps of an error stand after its text, each with its command; they come in place of those of its kind."""
    written: list[str] = []
    error = errors.NotListening("nobody listens").advising(Step("unlock it", "key unlock"), Step("see to it"))
    exits.report(error, written.append, said=Common(home=Path("/our home")))
    exits.report(errors.NotListening("nobody listens"), written.append, said=Common(socket=Path("/s")))

    assert written[0].startswith(
        "strongroom: nobody listens; unlock it: strongroom --home '/our home' key unlock; see to it"
    )
    assert "; see that it runs: strongroom up" in written[1]


@pytest.mark.parametrize(
    ("listen", "tls", "warned"),
    [
        ("0.0.0.0:8000", False, True),
        ("[::]:8000", False, True),
        ("192.0.2.1:8000", False, True),
        ("0.0.0.0:8000", True, False),
        ("127.0.0.1:8000", False, False),
        ("[::1]:8000", False, False),
        ("localhost:8000", False, False),
    ],
)
def test_what_is_open_to_the_network_without_tls_is_warned_of(listen: str, *, tls: bool, warned: bool) -> None:
    """One line says that secrets would cross the network in the clear; this machine alone, or TLS, is no cause."""
    assert ("without TLS" in up._exposed(listen, tls=tls)) is warned


@pytest.mark.parametrize("unit", [True, False])
def test_systemctl_is_advised_only_where_there_is_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unit: bool
) -> None:
    """Where systemd knows the service, a whole sentence says how to ask; elsewhere there is no word of it."""
    monkeypatch.setattr(exits, "UNITS", (tmp_path,))
    if unit:
        (tmp_path / "strongroom-storage.service").touch()
    written: list[str] = []
    exits.report(errors.NotListening("nobody listens"), written.append, said=Common(form=Form.JSON))
    more = "; systemctl status strongroom-storage says more of the one that systemd starts" if unit else ""
    assert json.loads(written[0])["detail"] == f"nobody listens{more}"


@pytest.mark.parametrize("error", [errors.Unavailable("the store cannot do this now"), errors.Barred("no way in")])
def test_only_who_is_not_there_is_to_be_started(error: BaseException) -> None:
    """Of a service that answers, or that this user may not ask, nobody says that it should be started."""
    written: list[str] = []
    exits.report(error, written.append)
    assert "strongroom up" not in written[0]


def test_every_error_of_the_service_has_a_code() -> None:
    """No error of ours is unforeseen: those that cross the wire, those of a start, and what cannot be sent (1)."""
    assert set(leaves(StrongroomError)) >= {row.error for row in wire.PROBLEMS.values()}
    for kind in leaves(StrongroomError):
        found = exits.exit_of(kind.__new__(kind))
        assert found is not None
        assert found.code in ({1} if issubclass(kind, ModelError) else {2, 3, 4, 5, 6})


def test_an_unforeseen_error_shows_its_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may hold anything, so it stays where it is; the traceback comes only when it is asked for."""
    monkeypatch.delenv("STRONGROOM_DEBUG", raising=False)
    written: list[str] = []

    assert exits.report(ValueError("c4nary"), written.append) == 2
    assert written == ["strongroom: unexpected ValueError; STRONGROOM_DEBUG=1 shows where"]

    monkeypatch.setenv("STRONGROOM_DEBUG", "1")
    with pytest.raises(ValueError, match="c4nary"):
        exits.report(ValueError("c4nary"), written.append)
