"""The variables ``STRONGROOM_…``: the list of those that mean something is that of the code and that of the page."""

import re
from pathlib import Path

import pytest

from strongroom.deploy.settings import Keys
from strongroom.storage_service import variables
from strongroom.storage_service.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("deploy", "storage_service", "http_proxy", "migration", "models", "strongroom/__init__.py", "Makefile")
NAME = re.compile(r"(?<![A-Z_])STRONGROOM_([A-Z][A-Z_]*[A-Z])(?![A-Z_*…])")


def named_in(*places: str) -> set[str]:
    """Return the variables that are named in the files at *places*."""
    files = [
        file
        for place in places
        for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        if file.is_file() and file.suffix not in {".pyc", ".so"}
    ]
    return {name for file in files for name in NAME.findall(file.read_text(errors="replace"))}


def test_the_settings_are_those_of_the_settings() -> None:
    """A setting that is added is said by a variable, too, without anybody thinking of it."""
    assert {name.upper() for name in Keys.__struct_fields__} == variables.SETTINGS


def test_what_the_code_names_is_known() -> None:
    """Whatever a command, a unit, a container or a script of ours reads or sets is no slip of the pen."""
    named = named_in(*PRODUCT)
    assert {"HOME", "ETCD_PASSWORD", "PASSWORD_FILE", "SOAK", "AUDIT_LOG"} <= named
    assert named - variables.KNOWN - {"STROE", "COMPLETE"} == set()


def test_the_page_has_every_variable() -> None:
    """Each setting has its row, and each other variable its name, on the page of the configuration."""
    page = (ROOT / "docs/configuration.md").read_text()
    named = set(NAME.findall(page))
    assert [name for name in sorted(variables.SETTINGS - {"HOME"}) if f"`{name.lower()}`" not in page] == []
    assert (variables.CLIENTS | variables.OTHERS | {"HOME"}) - named == set()
    assert named - variables.KNOWN == set()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STRONGROOM_STROE", "did you mean STRONGROOM_STORE?"),
        ("STRONGROOM_API_KEYFILE", "did you mean STRONGROOM_API_KEY_FILE?"),
        ("STRONGROOM_Q", "unset it; docs/configuration.md has those that there are"),
        ("STRONGROOM_store", "unset it; docs/configuration.md has those that there are"),
    ],
)
def test_what_means_nothing_is_refused(name: str, meant: str) -> None:
    """The error names the variable, and one that may have been meant; it does not repeat its value."""
    with pytest.raises(ConfigurationError) as caught:
        variables.check({"PATH": "/", name: "c4nary"})
    assert str(caught.value) == f"{name}: there is no such variable; {meant}"


@pytest.mark.parametrize(
    "name",
    [
        *("STRONGROOM_NAME", "STRONGROOM_ENV_PATH"),
        *("STRONGROOM_PORT", "STRONGROOM_SERVICE_HOST", "STRONGROOM_SERVICE_PORT", "STRONGROOM_SERVICE_PORT_HTTP"),
        *("STRONGROOM_PORT_8000_TCP", "STRONGROOM_PORT_8000_TCP_ADDR", "STRONGROOM_PROXY_SERVICE_HOST"),
        *("STRONGROOM_PROXY_PORT_443_TCP_PROTO", "_STRONGROOM_COMPLETE", "STRONGROOMS_X", "MY_STRONGROOM_X"),
    ],
)
def test_what_others_call_so_is_let_alone(name: str) -> None:
    """Kubernetes tells every container of a service that is called strongroom; that is no slip of a pen of ours."""
    variables.check({name: "tcp://10.0.0.1:8000"})


def test_what_is_empty_says_nothing() -> None:
    """A variable that is set to nothing is as one that is not set, whatever its name."""
    variables.check({"STRONGROOM_STROE": ""})


def test_what_fills_a_placeholder_means_something() -> None:
    """The proposal's two files may ask for any name; where one may be read elsewhere, nothing is known to be wrong."""
    said = {"STRONGROOM_MY_SERVER": "x"}
    variables.check(said, {"my_server"})
    variables.check(said | {"STRONGROOM_CUSTODIA_CONF": "custodia.conf"})
    with pytest.raises(ConfigurationError, match="STRONGROOM_MY_SERVER"):
        variables.check(said, set())
