"""Custodia 0.6.0's own EncryptedOverlay, in its own Python, reads what is written here; the reverse is refused."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Undecipherable
from strongroom.storage_service.jose import jwk
from strongroom.storage_service.jose.jwe import Reason, bound_name, encrypt
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Ring
from tests.keyring.fixed import Fixed

HERE: Final = Path(__file__).parent
PYTHON: Final = HERE.parents[1] / ".venv-custodia/bin/python"  # made by `make test`
KEY: Final = DataKey("default.1", bytes(range(64)))
RING: Final = Ring([KEY])

MESSAGES: Final = {
    f"secrets/{name}": json.dumps({"type": "simple", "value": value})
    for name, value in {
        "hosts/10.0.0.7": base64.b64encode(b"ssh_priv_key" * 100).decode(),
        "hosts/fe80::1": "a plain text",
        "a/b/c/d@e+f_g-h": "Grüße, 秘密, \U0001f511",
        "hosts/empty": "",
        "hosts/large": "x" * 100_000,
    }.items()
}


class Custodia:
    """One store of Custodia's in *folder*, under the master key file *key*."""

    def __init__(self, folder: Path, key: Path) -> None:
        self._arguments = [str(PYTHON), str(HERE / "custodia_overlay.py"), str(folder / "custodia.db"), str(key)]

    def ask(self, *acts: tuple[str, ...], protection: str = "pinning") -> list[object]:
        """Return Custodia's answers; *protection* "" is what it does by default."""
        assert PYTHON.exists(), "Custodia is missing: make .venv-custodia/complete"
        done = subprocess.run(
            [*self._arguments, protection], input=json.dumps(acts), capture_output=True, text=True, check=True
        )
        answers = json.loads(done.stdout)
        assert isinstance(answers, list)
        return answers


@pytest.fixture
def custodia(tmp_path: Path) -> Custodia:
    path = tmp_path / "master.key"
    path.write_bytes(jwk.encode(KEY.reveal()))
    return Custodia(tmp_path, path)


@pytest.mark.parametrize("protection", ["", "pinning"])
def test_custodia_reads_what_we_write(custodia: Custodia, protection: str) -> None:
    """Values of ours, laid into Custodia's store under its names, come out of its overlay, pinned or by default."""
    laid = [("put", bound_name(name), encrypt(KEY, name, text.encode()).decode()) for name, text in MESSAGES.items()]
    asked = [("get", bound_name(name)) for name in MESSAGES]

    answers = custodia.ask(*laid, *asked, protection=protection)

    assert answers == [None] * len(laid) + list(MESSAGES.values())


@pytest.mark.parametrize("protection", ["", "pinning", "migrate"])
async def test_what_custodia_writes_is_refused(custodia: Custodia, protection: str) -> None:
    """A value of Custodia's that is laid into the store, under the very key in use, names none and does not open."""
    written = [("set", bound_name(name), text) for name, text in MESSAGES.items()]
    asked = [("raw", bound_name(name)) for name in MESSAGES]
    answers = custodia.ask(*written, *asked, protection=protection)[len(written) :]
    below, keys = MemoryBackend(), Fixed(RING)
    await below.open()
    await below.commit([Put(name, str(raw).encode()) for name, raw in zip(MESSAGES, answers, strict=True)])

    for name in MESSAGES:
        with pytest.raises(Undecipherable) as caught:
            await EncryptedBackend(below, keys).get(name)
        assert caught.value.reason == Reason.NO_KID
    assert keys.refreshed == 0, "no newer keyring opens it either"


def test_custodia_keeps_our_names(custodia: Custodia) -> None:
    """A value of ours under another name is refused by Custodia as well: both bind the same header."""
    name, other = "secrets/hosts/a", "secrets/hosts/b"
    moved = encrypt(KEY, name, b'{"type":"simple","value":"x"}').decode()

    _, answer = custodia.ask(("put", bound_name(other), moved), ("get", bound_name(other)))

    assert answer == {"error": f"Secret Pinning check failed! Expected {bound_name(other)} got {bound_name(name)}"}


def test_a_key_file_of_custodias_making_is_a_root_key(tmp_path: Path) -> None:
    """The master key file that Custodia generates is read as a root key, mode and all."""
    path = tmp_path / "master.key"
    Custodia(tmp_path, path).ask()

    key = rootkey.read(path)

    assert path.read_bytes() == jwk.encode(key.reveal())


def test_a_root_key_file_of_ours_is_custodias(tmp_path: Path) -> None:
    """The root key file made here is a master key to Custodia."""
    path = tmp_path / "secrets.key"
    key = rootkey.make(path)

    name, text = "secrets/a", '{"type":"simple","value":"x"}'
    laid = encrypt(DataKey("default.1", key.reveal()), name, text.encode()).decode()

    *_, read = Custodia(tmp_path, path).ask(("put", "keys/a", laid), ("get", "keys/a"))

    assert read == text
