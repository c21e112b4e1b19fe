"""The image and the composition of two containers: linted, without root, without a place to write, without network."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from strongroom.deploy.settings import load
from tests.deploy.running import clean_environment, up

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "deploy/container"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Return the two services of the composition."""
    return yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def last_stage() -> list[tuple[str, str]]:
    """Return the instructions of the stage that becomes the image."""
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    last_from = max(number for number, line in enumerate(lines) if line[0] == "FROM")
    return [(instruction, value.strip()) for instruction, _, value in lines[last_from:]]


def test_the_linter_finds_nothing() -> None:
    """Hadolint accepts the Containerfile."""
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run([hadolint, CONTAINER / "Containerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_nobodys(last_stage: list[tuple[str, str]]) -> None:
    """The process runs as a fixed number that is not root's, and the last word on that is the image's."""
    users = [value for instruction, value in last_stage if instruction == "USER"]

    assert users == ["10001:10001"]


def test_the_image_needs_no_shell(last_stage: list[tuple[str, str]]) -> None:
    """Everything is started in exec form, so the signal that stops a container reaches the process itself."""
    assert [value[0] for instruction, value in last_stage if instruction in {"ENTRYPOINT", "CMD", "RUN"}] == ["["] * 3
    assert ("STOPSIGNAL", "SIGTERM") in last_stage


def test_the_image_is_built_from_what_the_context_holds() -> None:
    """Every top-level package and every file that the build reads is let into the build's context."""
    let_in = {
        line[1:] for line in (CONTAINER / "Containerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }

    assert {"deploy", "http_proxy", "migration", "models", "storage_service", "strongroom"} <= let_in
    assert {"requirements", "pyproject.toml"} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.parametrize("name", ["storage", "proxy"])
def test_a_container_can_do_nothing_it_need_not(services: dict[str, dict[str, Any]], name: str) -> None:
    """No capability, no new privilege, no file to write outside its volumes, no core dump."""
    service = services[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["ulimits"] == {"core": 0, "nofile": 65536}
    assert service["pids_limit"] == 256
    assert service["memswap_limit"] == service["mem_limit"]


def test_who_holds_keys_has_no_network(services: dict[str, dict[str, Any]]) -> None:
    """The storage service has no network, and the proxy is given no root key, no store, and no key but its own."""
    given = " ".join(services["proxy"]["volumes"])

    assert services["storage"]["network_mode"] == "none"
    assert "secrets.key" not in given
    assert "state:" not in given
    assert "client:" not in given


@pytest.mark.parametrize("name", ["storage", "proxy"])
def test_the_settings_are_ours(services: dict[str, dict[str, Any]], name: str, tmp_path: Path) -> None:
    """Every variable is a setting that exists, and every path in it lies in a volume."""
    variables = {**services[name]["environment"], "STRONGROOM_CLIENT": str(tmp_path / "client.json")}
    volumes = [volume.split(":")[1] for volume in services[name]["volumes"]]

    settings = load(environ=variables, without_key=True)

    paths = [value for value in services[name]["environment"].values() if value.startswith("/")]
    assert all(any(path == volume or path.startswith(f"{volume}/") for volume in volumes) for path in paths)
    assert settings.service.socket == Path("/run/strongroom/storage.sock")


@pytest.fixture(scope="module")
def with_tls() -> dict[str, Any]:
    """Return what the page adds to the proxy for TLS."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)["services"]["proxy"]


def test_tls_is_said_as_the_page_says(services: dict[str, dict[str, Any]], with_tls: dict[str, Any]) -> None:
    """Each of its variables is a setting, and its files lie in the volume that it adds."""
    settings = load(environ=services["proxy"]["environment"] | with_tls["environment"], role="proxy", without_key=True)

    (volume,) = with_tls["volumes"]
    for path in (settings.proxy.tls_certificate, settings.proxy.tls_key):
        assert path is not None
        assert path.parent == Path(volume.split(":")[1])


def test_the_proxys_health_is_asked_for_over_tls(with_tls: dict[str, Any], tmp_path: Path) -> None:
    """The page's health check is content with a proxy whose certificate is for another name, and not with none."""
    issued = trustme.CA().issue_cert("strongroom.example.org")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    environ = clean_environment(
        STRONGROOM_TLS_CERTIFICATE=str(tmp_path / "chain.pem"), STRONGROOM_TLS_KEY=str(tmp_path / "key.pem")
    )
    command = with_tls["healthcheck"]["test"]
    assert command[:3] == ["CMD", "/opt/strongroom/bin/python", "-c"]

    def check(url: str) -> int:
        code = command[3].replace("https://127.0.0.1:8000", url)
        assert url in code
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode

    with up(tmp_path / "home", environ=environ) as running:
        healthy = check(running.url)
    assert (healthy, check(running.url)) == (0, 1)
