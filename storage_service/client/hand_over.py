"""What a command is about to do on this machine beside the service, handed over to the service to be recorded.

No API key is asked for: the service hears processes of its own user and of root, and the kernel tells it who that is.
Its own user may be unable to read a key, which systemd hands to the process itself.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from strongroom.storage_service import wire
from strongroom.storage_service.client.loops import LoopPools
from strongroom.storage_service.client.place import Place, UpstreamError
from strongroom.storage_service.errors import AuditUnavailable
from strongroom.storage_service.wire import http1

TIMEOUT: Final = 10.0  # seconds; a line of the audit log takes five at most


async def hand_over(socket: Path, act: wire.CommandAct, request_id: str) -> bool:
    """Let the service that listens at *socket* record *act*; return whether one does.

    Raises:
        AuditUnavailable: one listens, and did not say that it has.
        ServiceError: it refuses to.
    """
    fields = [
        (b"host", b"strongroom"),
        (b"content-type", wire.JSON.encode()),
        (http1.REQUEST_ID, request_id.encode("ascii")),
    ]
    request = http1.write_request(b"POST", wire.ACTS_PATH.encode(), fields, msgspec.json.encode(act))
    pools = LoopPools(Place(os.fspath(socket)), 1, TIMEOUT)
    try:
        answer = await pools.exchange(request, TIMEOUT, repeatable=False, request_id=request_id.encode("ascii"))
    except UpstreamError as error:
        if error.absent:
            return False
        raise AuditUnavailable(f"the service did not record it, so nothing was done: {error}") from None
    finally:
        await pools.close()
    if answer.status != 204:
        raise wire.error_of(answer.status, answer.body)
    return True
