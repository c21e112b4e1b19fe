"""Which version of the KV engine a mount is of, as the server says to those who may use the mount or see the table."""

import msgspec

from strongroom.migration.errors import SourceRefused
from strongroom.migration.sources.openbao.http import PathRefused, Server, shown
from strongroom.storage_service.errors import ConfigurationError


async def version_of(server: Server, mount: str, said: int) -> int:
    """Return the version of the KV engine at *mount*; *said* is what the operator says, 0 for nothing.

    Raises:
        ConfigurationError: nothing is mounted there, another engine, or not the version that was said.
        SourceRefused: the server does not say, and nor does the operator.
    """
    try:
        answer = await server.get(f"sys/internal/ui/mounts/{mount}")
    except PathRefused as error:
        found = await _in_table(server, mount, error if not said else None)
        if found is None:
            return said
    else:
        found = answer.read(_MountAnswer).data
    if found.path.strip("/") not in ("", mount):
        raise _nothing_at(mount)
    version = found.version
    if not version:
        raise ConfigurationError(f"what is mounted at {shown(mount)} is not a KV engine: see bao secrets list")
    if said not in (0, version):
        raise ConfigurationError(f"the mount {shown(mount)} is of version {version}, not {said}")
    return version


async def _in_table(server: Server, mount: str, refused: PathRefused | None) -> "_Mount | None":
    """Return what the table of mounts says; if that may not be read either, it is *refused*, or else None."""
    try:
        answer = await server.get("sys/mounts")
    except PathRefused:
        if refused is None:
            return None
        raise SourceRefused(
            f"the token is invalid or has no access to the mount {shown(mount)}, or there is no such mount: see"
            " -o mount=NAME and the token's policies (bao token lookup), or say -o version=1 or 2"
        ) from refused
    mounts = answer.read(_TableAnswer).data
    if f"{mount}/" not in mounts:
        raise _nothing_at(mount)
    return mounts[f"{mount}/"]


def _nothing_at(mount: str) -> ConfigurationError:
    return ConfigurationError(f"nothing is mounted at {shown(mount)}: see -o mount=NAME (bao secrets list)")


class _Mount(msgspec.Struct):
    """What the server says of a mount."""

    type: str
    path: str = ""
    options: dict[str, str] | None = None

    @property
    def version(self) -> int:
        """The version of the KV engine; 0: it is another engine."""
        if self.type not in ("kv", "generic"):  # what version 1 was called first
            return 0
        return 2 if (self.options or {}).get("version") == "2" else 1


class _MountAnswer(msgspec.Struct):
    data: _Mount


class _TableAnswer(msgspec.Struct):
    data: dict[str, _Mount]
