"""Key files that ssh-keygen made, once for each module that asks."""

from pathlib import Path

import pytest

from tests.access.ssh_holders import KINDS, generated


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the file of a private key of each kind."""
    folder = tmp_path_factory.mktemp("keys")
    return {kind: generated(folder, kind) for kind in KINDS}
