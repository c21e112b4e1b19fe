"""The unit files as systemd reads them: sections of settings, a setting may stand more than once."""

from pathlib import Path
from typing import Final

SYSTEMD: Final = Path(__file__).resolve().parents[2] / "deploy/systemd"
UNITS: Final = tuple(sorted(path.name for kind in ("service", "socket") for path in SYSTEMD.glob(f"*.{kind}")))
SERVICES: Final = tuple(name for name in UNITS if name.endswith(".service"))


def settings(unit: str) -> dict[str, list[str]]:
    """Return every setting of *unit* with its values in order, whatever section it is in."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def environment(unit: str, credentials: Path) -> dict[str, str]:
    """Return the variables that *unit* sets, with its credentials in *credentials*."""
    assignments = [line.replace("%d", str(credentials)) for line in settings(unit)["Environment"]]
    return dict(assignment.partition("=")[::2] for assignment in assignments)
