"""The ``strongroom`` command: ``root`` and one module for each noun.

Nothing is imported here until it is asked for: where the library alone is installed there is no command line, and who
runs this package is told what brings it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strongroom.deploy.cli.root import main as main
    from strongroom.deploy.cli.root import run as run
    from strongroom.deploy.cli.root import strongroom as strongroom


def __getattr__(name: str) -> Any:
    """Return what ``root`` has."""
    if name not in {"main", "run", "strongroom"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from strongroom.deploy.cli import root

    return getattr(root, name)
