"""Roles in memory: subjects have roles, roles have permissions, and that is all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import changed_by_others

_ANY: Final = "*"  # as a permission's resource: every resource; as one that is asked about, a resource of that name


class Permission(NamedTuple):
    """One action on one resource, or on all."""

    action: str
    resource: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    grants: dict[str, list[str]] = {}
    permissions: dict[str, list[tuple[str, str]]] = {}


class Rbac:
    """Allows what one of the subject's roles has a permission for. Roles have no order, and none includes another."""

    def __init__(self) -> None:
        """Begin without roles."""
        self._roles: dict[str, set[str]] = {}
        self._permissions: dict[str, set[Permission]] = {}

    @classmethod
    def from_options(cls, options: Mapping[str, str], token: Secret | None) -> Self:
        """Return the engine that *options* describe.

        ``grants`` are ``subject role``, ``permissions`` are ``role action resource``; ``file`` names a JSON file,
        ``{"grants": {subject: [role]}, "permissions": {role: [[action, resource]]}}``.

        Raises:
            ConfigurationError: they are not understood, or the file cannot be read, or others may change it.
        """
        del token  # nobody is asked
        made = cls()
        grants = options.get("grants", "").split()
        permissions = options.get("permissions", "").split()
        if len(grants) % 2 or len(permissions) % 3:
            raise ConfigurationError(
                'an engine Rbac has grants such as "user:ann reader", permissions such as "reader secrets.read *"'
            )
        for subject, role in zip(grants[::2], grants[1::2], strict=True):
            made.grant_role(subject, role)
        for role, action, resource in zip(permissions[::3], permissions[1::3], permissions[2::3], strict=True):
            made.bind_role_to_permission(role, action, resource)
        if "file" in options:
            made._read(Path(options["file"]))
        return made

    def grant_role(self, subject: str, role: str) -> None:
        """Give *subject* the *role*."""
        self._roles.setdefault(subject, set()).add(role)

    def revoke_role(self, subject: str, role: str) -> None:
        """Take the *role* from *subject*, if it has it."""
        self._roles.get(subject, set()).discard(role)

    def bind_role_to_permission(self, role: str, action: str, resource: str) -> None:
        """Let who has the *role* do *action* to *resource*."""
        self._permissions.setdefault(role, set()).add(Permission(action, resource))

    def unbind_role_from_permission(self, role: str, action: str, resource: str) -> None:
        """Take that permission from the *role*, if it has it."""
        self._permissions.get(role, set()).discard(Permission(action, resource))

    def roles_of(self, subject: str) -> frozenset[str]:
        """Return the roles that *subject* has now."""
        return frozenset(self._roles.get(subject, ()))

    def permissions_of(self, role: str) -> frozenset[Permission]:
        """Return the permissions that *role* has now."""
        return frozenset(self._permissions.get(role, ()))

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        """Return whether a role of *subject* has the permission."""
        wanted = {Permission(action, resource), Permission(action, _ANY)}
        return any(wanted & self._permissions.get(role, set()) for role in self._roles.get(subject, ()))

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                if (fault := changed_by_others(path, os.fstat(file.fileno()))) is not None:
                    raise ConfigurationError(fault)
                said = msgspec.json.decode(file.read(), type=_File)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        except UNREADABLE:
            raise ConfigurationError(
                f'{path}: an engine Rbac reads {{"grants": {{subject: [role]}}, "permissions": {{role: [[action,'
                " resource]]}}"
            ) from None
        for subject, roles in said.grants.items():
            for role in roles:
                self.grant_role(subject, role)
        for role, permissions in said.permissions.items():
            for action, resource in permissions:
                self.bind_role_to_permission(role, action, resource)
