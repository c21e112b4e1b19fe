"""All that the socket serves of keys, under ``/keyring``: one class for each noun, which only translates.

The proxy forwards none of it.
"""

from typing import Any, TypeVar

import falcon
import falcon.asgi
import msgspec

from strongroom.storage_service import wire
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.http.answering import Request, Response, answer, body, caller
from strongroom.storage_service.services.keys import KeyService, KeysMade
from strongroom.storage_service.wire import keys as keyring_wire
from strongroom.storage_service.wire.keys import (
    KEYRING_PATH,
    Assigning,
    NewBackup,
    NewKeyring,
    NewKeyset,
    NewRoot,
    Reencryption,
    Resumption,
    Retirement,
    Rotation,
    Scanning,
    Typed,
)

A = TypeVar("A")
T = TypeVar("T", bound=msgspec.Struct)


def add_routes(app: falcon.asgi.App[Any, Any], keys: KeyService) -> None:
    """Give *app* every resource of this page."""
    for path, resource in (
        ("", Keyring(keys)),
        ("/init", First(keys)),
        ("/init/{kid}", Unseen(keys)),
        ("/unlock", Unlock(keys)),
        ("/lock", Lock(keys)),
        ("/forget", Forget(keys)),
        ("/root", NextRoot(keys)),
        ("/root/{kid}", PreparedRoot(keys)),
        ("/keysets", Keysets(keys)),
        ("/keysets/{name}", OneKeyset(keys)),
        ("/keysets/{name}/rotate", Rotate(keys)),
        ("/keysets/{name}/revert", Revert(keys)),
        ("/assign", Assign(keys)),
        ("/reencrypt", Reencrypt(keys)),
        ("/resume", Resume(keys)),
        ("/retire", Retire(keys)),
        ("/usage", Usage(keys)),
        ("/usage/scan", Scan(keys)),
        ("/backups", Backups(keys)),
        ("/backups/{label}", OneBackup(keys)),
        ("/export", Export(keys)),
    ):
        app.add_route(KEYRING_PATH + path, resource)


class _Resource:
    """A resource, and the door behind it."""

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    async def _said(self, req: Request, of: type[T], what: str | None = None) -> T:
        """Return the body of *req* as an *of*; where the path says *what* is to be done, its right to that comes first.

        Raises:
            Denied, TooLarge, Invalid
        """
        if what is not None:
            await self._keys.expect(caller(req), Action.PUT, what)
        return await body(req, of, wire.MAX_CEREMONY_BODY)


class Keyring(_Resource):
    """The keyring as a whole."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell all that can be told of it now."""
        answer(req, resp, _told(keyring_wire.KeyringStatus, await self._keys.status(caller(req))))


class First(_Resource):
    """Make the first keyring of a store."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make it, and show what opens it, this once."""
        wanted = await self._said(req, NewKeyring, "init")
        made = await self._keys.initialize(
            caller(req),
            wanted.mode,
            total=wanted.total,
            needed=wanted.needed,
            keys=wanted.keys,
            again=wanted.again,
        )
        resp.status = falcon.HTTP_201
        answer(req, resp, keys_shown(made))


class Unseen(_Resource):
    """A first keyring whose keys nobody got to see."""

    async def on_delete(self, req: Request, resp: Response, kid: str) -> None:
        """Take it back."""
        await self._keys.take_back(caller(req), kid)
        _done(req, resp)


class Unlock(_Resource):
    """What opens the keyring."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Unlock every worker."""
        said = await self._said(req, Typed, "unlock")
        await self._keys.unlock(caller(req), said.text)
        _done(req, resp)


class Lock(_Resource):
    """Lock the service: forget the root key."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Lock every worker."""
        await self._keys.lock(caller(req))
        _done(req, resp)


class Forget(_Resource):
    """Lock the service, and replace the workers that knew the root key."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Lock every worker, and let others take their places."""
        await self._keys.lock(caller(req), forget=True)
        _done(req, resp)


class NextRoot(_Resource):
    """The next root key."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Prepare it, and show what opens it, this once."""
        wanted = await self._said(req, NewRoot, "root")
        made = await self._keys.prepare_root(
            caller(req), wanted.mode, total=wanted.total, needed=wanted.needed, keep_file=wanted.keep_file
        )
        resp.status = falcon.HTTP_201
        answer(req, resp, keys_shown(made))


class PreparedRoot(_Resource):
    """A root key that was prepared."""

    async def on_post(self, req: Request, resp: Response, kid: str) -> None:
        """Let it take the place of the one in use."""
        said = await self._said(req, Typed, f"root/{kid}")
        await self._keys.confirm_root(caller(req), kid, said.text)
        _done(req, resp)

    async def on_delete(self, req: Request, resp: Response, kid: str) -> None:
        """Drop it."""
        await self._keys.abandon_root(caller(req), kid)
        _done(req, resp)


class Keysets(_Resource):
    """All keysets."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List them."""
        answer(req, resp, _told(list[keyring_wire.Keyset], await self._keys.keysets(caller(req))))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make one."""
        wanted = await self._said(req, NewKeyset)
        await self._keys.create_keyset(caller(req), wanted.name, wanted.keys)
        _done(req, resp)


class OneKeyset(_Resource):
    """One keyset."""

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Destroy it, when nothing is under it."""
        await self._keys.remove_keyset(caller(req), name)
        _done(req, resp)


class Rotate(_Resource):
    """The next generation of a keyset."""

    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        """Make it, and make it active."""
        said = await self._said(req, Rotation, f"keysets/{name}/rotate")
        await self._keys.rotate(caller(req), name, said.keys)
        _done(req, resp)


class Revert(_Resource):
    """The generation of a keyset before the active one."""

    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        """Make it active again."""
        await self._keys.revert(caller(req), name)
        _done(req, resp)


class Assign(_Resource):
    """The keyset of a container."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Say which it is from now on."""
        said = await self._said(req, Assigning)
        await self._keys.assign(caller(req), said.container, said.keyset)
        _done(req, resp)


class Reencrypt(_Resource):
    """Re-encryption."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Do one step of it, and tell where the next one begins."""
        said = await self._said(req, Reencryption)
        step, settled, left = await self._keys.reencrypt(
            caller(req), said.keyset, said.after, said.limit, resume=said.resume, pace=said.pace
        )
        done = keyring_wire.Reencrypted(
            moved=step.moved,
            overtaken=step.overtaken,
            unreadable=list(step.unreadable),
            after=step.after,
            settled=settled,
            left=list(left),
        )
        answer(req, resp, done)


class Resume(_Resource):
    """The end of a halt."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Write secrets again."""
        said = await self._said(req, Resumption)
        await self._keys.resume(caller(req), said.keyset, leave_unreadable=said.leave_unreadable)
        _done(req, resp)


class Retire(_Resource):
    """The end of a generation."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Destroy it, when it is proven that nothing is under it."""
        said = await self._said(req, Retirement)
        await self._keys.retire(caller(req), said.generation)
        _done(req, resp)


class Usage(_Resource):
    """What is under which generation."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it, by the key usage index."""
        complete, generations = await self._keys.usage(caller(req))
        answer(req, resp, keyring_wire.KeyUsage(counted=complete, generations=dict(generations)))


class Scan(_Resource):
    """The index, and the records themselves."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Look at every record."""
        said = await self._said(req, Scanning)
        found = await self._keys.scan(caller(req), repair=said.repair)
        told = keyring_wire.Scan(
            by_kid=dict(found.by_kid),
            by_generation=dict(found.by_generation),
            missing=len(found.missing),
            stale=len(found.stale),
            unreadable=list(found.unreadable),
            repaired=said.repair,
        )
        answer(req, resp, told)


class Backups(_Resource):
    """All registered backups."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List them."""
        answer(req, resp, _told(list[keyring_wire.Backup], await self._keys.backups(caller(req))))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Register one, that needs all generations of today."""
        said = await self._said(req, NewBackup)
        await self._keys.register_backup(caller(req), said.label)
        _done(req, resp)


class OneBackup(_Resource):
    """One registered backup."""

    async def on_delete(self, req: Request, resp: Response, label: str) -> None:
        """Forget it."""
        await self._keys.forget_backup(caller(req), label)
        _done(req, resp)


class Export(_Resource):
    """The keyring as one file."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Give it out; everything secret in it is encrypted."""
        content = await self._keys.export(caller(req))
        answer(req, resp, None)
        resp.content_type = wire.OCTET_STREAM
        resp.data = content


def _done(req: Request, resp: Response) -> None:
    resp.status = falcon.HTTP_204
    answer(req, resp, None)


def _told(of: type[A], said: object) -> A:
    """Return what the service *said* as it is told on the wire, whose fields have the same names."""
    return msgspec.convert(said, of, from_attributes=True)


def keys_shown(made: KeysMade) -> keyring_wire.KeysMade:
    """Return new keys as they are shown, this once."""
    keys = [secret.reveal() for secret in made.keys]
    return keyring_wire.KeysMade(root=made.root, mode=made.mode, keys=keys, needed=made.needed)
