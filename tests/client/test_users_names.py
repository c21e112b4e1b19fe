"""``from strongroom import …``: what is there, and what it costs."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import strongroom
from strongroom.models import MODELS, Host, SecretModel
from strongroom.storage_service import client, errors

ROOT = Path(__file__).parents[2]
NAMES = sorted(strongroom.__all__)


def modules_after(code: str) -> set[str]:
    """Return which modules of ours a new Python has loaded after *code*."""
    told = f"{code}\nimport sys\nprint(*(name for name in sys.modules if name.startswith('strongroom.')))"
    run = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name: str) -> None:
    """Each name that is offered can be had, and is the thing that the module has that defines it."""
    found = getattr(strongroom, name)

    assert found is getattr(importlib.import_module(found.__module__), name)
    assert name in dir(strongroom)


def test_every_client_and_record_is_offered() -> None:
    """All that the client package offers is here, and so is every model that can be stored."""
    assert set(client.__all__) <= set(NAMES)
    assert {name for name in MODELS if not issubclass(MODELS[name], SecretModel)} <= set(NAMES)
    assert strongroom.Host is Host
    assert strongroom.NotFound is errors.NotFound


def test_a_name_that_is_not_there() -> None:
    """It is refused as any module would, also what a module behind has and does not offer here."""
    with pytest.raises(AttributeError, match="has no attribute 'StorageClinet'"):
        getattr(strongroom, "StorageClinet")  # noqa: B009  # that a type checker would refuse
    with pytest.raises(AttributeError):
        getattr(strongroom, "StartupError")  # noqa: B009


def test_the_name_alone_costs_nothing() -> None:
    """Importing the package loads no module of it."""
    assert modules_after("import strongroom") == set()


def test_one_pays_for_what_one_uses() -> None:
    """A record loads the models and no client; a client loads no service, no proxy and no command."""
    assert {name.split(".")[1] for name in modules_after("from strongroom import Host")} == {"models"}
    loaded = modules_after("from strongroom import StorageClient")
    assert {name.split(".")[1] for name in loaded} == {"models", "storage_service"}
    assert not loaded & {f"strongroom.storage_service.{room}" for room in ("keyring", "backends", "service", "app")}
