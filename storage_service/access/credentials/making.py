"""Credentials that are new: what was given is checked and spelled as it is kept, and a password is hashed."""

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Final

from strongroom.models import access
from strongroom.models.access import Credential, InvalidAccess
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.credentials.registry import kind_named
from strongroom.storage_service.errors import Invalid

PASSWORD: Final = "password"  # the one kind of which what is given is not what is kept  # noqa: S105

_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


async def make(
    kind: str,
    given: str,
    *,
    now: str,
    name: str = "",
    expires: str | None = None,
    hashed: bool = False,
    random: Callable[[], str] = lambda: secrets.token_hex(16),
) -> Credential:
    """Return a credential that is made *now* of what was *given*; without a *name* it is called by kind and id.

    Args:
        kind: a name in the registry.
        given: a password, a public key, a certificate's URI or fingerprint, a uid.
        now: the moment, as records say it.
        name: what people are to call it; none can be mistaken for an id.
        expires: from when on it is worth nothing.
        hashed: a password is given as an older file has it: as its hash.
        random: makes ids.

    Raises:
        Invalid: it cannot be one; nothing of it is repeated.
    """
    try:
        row = kind_named(kind)
        if kind == PASSWORD and not hashed:
            from strongroom.storage_service.access.credentials import password

            data = await asyncio.to_thread(password.hashed, given)
        else:
            data = row.canonical(given)
        if expires is not None and access.told(access.check_time(expires, "expires")) <= now:
            raise InvalidAccess("it would have expired already", "expires")
        number = random()
        called = access.check_name(name or f"{kind}-{number[:8]}")
    except InvalidAccess as error:
        raise Invalid(str(error), ((error.field, "cannot be so"),)) from None
    except InvalidName as error:
        raise Invalid(f"a credential's name cannot be so: {error}", (("name", "is not a name"),)) from None
    if _ID.fullmatch(called):
        raise Invalid("a credential's name is not an id", (("name", "looks like an id"),))
    return Credential(id=number, kind=kind, name=called, data=data, created=now, expires=expires)
