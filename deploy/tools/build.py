"""What builds Strongroom for pip: setuptools, save that an editable install is one line in a ``.pth`` file.

setuptools' own editable install maps names to folders by code that runs at every start of Python. Type checkers and
import-linter do not run it, so they find nothing, or, in its strict form, no file that is newer than the install.
"""

import base64
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel,
)

from . import links  # noqa: TID251  # as pip has found this module, by its place in the tree

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_wheel",
]

_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: strongroom\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Link the rooms of this tree, and put a wheel that points to them into *wheel_directory*; return its file name.

    pip calls this (PEP 660). The metadata is setuptools', with the command, the pytest plugin and what they need.
    """
    del metadata_directory  # pip has it from nowhere but here
    with tempfile.TemporaryDirectory() as folder:
        info = prepare_metadata_for_build_wheel(folder, config_settings)
        made = Path(folder) / info
        files = {f"{info}/{path.relative_to(made)}": path.read_bytes() for path in made.rglob("*") if path.is_file()}
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{links.NAME}.pth"] = f"{links.link()}\n".encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    wheel = f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


def _digest(content: bytes) -> str:
    """Return the hash of *content* as a wheel's RECORD spells it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
