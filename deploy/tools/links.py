"""Make a source tree importable as `strongroom`: links to its rooms, where Python and type checkers look for them.

    python3 -m deploy.tools.links

The rooms lie at the top of the tree and are imported from below one name: ``models/`` is `strongroom.models`. In a
wheel they lie there; in a tree, each has a link in ``strongroom/``. ``.editable/`` holds nothing but a link to that
folder: it is what an environment has on its path, so that no other folder of the tree can be imported by accident.
git ignores the links. Nothing but Python's own library is needed here.
"""

import contextlib
import tomllib
from pathlib import Path
from typing import Final

TREE: Final = Path(__file__).resolve().parents[2]
NAME: Final = "strongroom"
EDITABLE: Final = ".editable"


def link(tree: Path = TREE) -> Path:
    """Make the links of *tree* that are missing or wrong; return the folder to put on Python's path.

    Raises:
        OSError: *tree* cannot be written to, or something else than a link is in the way.
    """
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    for module, folder in project["tool"]["setuptools"]["package-dir"].items():
        if module != NAME:
            _point(tree / module.replace(".", "/"), folder)
    editable = tree / EDITABLE
    editable.mkdir(exist_ok=True)
    _point(editable / NAME, NAME)
    return editable


def _point(place: Path, folder: str) -> None:
    """Let *place* be a link to *folder*, which lies beside the folder of *place*."""
    target = f"../{folder}"
    if place.is_symlink() and str(place.readlink()) != target:
        place.unlink()
    if not place.is_symlink():
        with contextlib.suppress(FileExistsError):  # by somebody else, at the same time
            place.symlink_to(target)
    if not place.is_symlink():
        raise FileExistsError(f"{place} is in the way of a link to {folder}/; move it away")


if __name__ == "__main__":
    link()
