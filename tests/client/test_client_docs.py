"""The page about the client library does what it says."""

import re
from pathlib import Path

import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service.client import NewCredential, StorageClient
from strongroom.storage_service.client.address import read_home
from tests.access.ssh_holders import generated

PAGE = Path(__file__).parents[2] / "docs" / "client-library.md"


def test_every_example_of_the_page_runs(
    strongroom_server: Server, strongroom: StorageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks run one after the other, as if they were one program, against the real service."""
    text = PAGE.read_text()
    monkeypatch.setenv("STRONGROOM_HOME", str(strongroom_server.home))
    _, caller = read_home(strongroom_server.home)
    program: dict[str, object] = {
        "home": strongroom_server.home,
        "socket": strongroom_server.socket,
        "url": strongroom_server.url,
        "api_id": caller.api_id,
        "api_key": caller.api_key,
    }
    key = generated(strongroom_server.home, "ed25519")
    with StorageClient.from_home(strongroom_server.home) as own:
        own.add_principal("user:ann", [NewCredential("access-key", key.with_suffix(".pub").read_text())])
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 10
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), program)  # errors name the line of the page

    example = program["test_the_application_reads_its_password"]
    assert callable(example)
    example(strongroom)
    for made in program.values():
        if isinstance(made, StorageClient):
            made.close()
