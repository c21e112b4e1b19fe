"""The mark of a store that is being restored: it is there from the first commit to the last.

A process that is killed in between leaves it behind, and no service starts on a store that has it.
"""

from strongroom.models.names import RESTORE
from strongroom.models.steps import Step
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import ConfigurationError


async def refuse_half(store: Backend) -> None:
    """Refuse to use a store whose restoring has not come to its end.

    Raises:
        ConfigurationError: it has not.
        Unavailable: the store does not answer.
    """
    if await store.get(RESTORE) is not None:
        raise ConfigurationError(
            "the store is half restored: begin with an empty one, or let the restore finish"
        ).advising(Step("with the same backup", "restore"))
