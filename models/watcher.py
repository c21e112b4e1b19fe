"""What the watcher remembers of the hosts that it looks after."""

from typing import Annotated, Final

from strongroom.models.base import ListModel, Model
from strongroom.models.rules import timestamp

NEVER: Final = "9999-12-31T23:59:59.999999"  # the last moment there is, as Python's datetime counts


class WatcherRecord(Model):
    """When the watcher last saw a host."""

    plural = "watcher_records"
    primary_key = "address"

    address: str = ""
    last_check: Annotated[str, timestamp] = NEVER


class WatcherRecords(ListModel[WatcherRecord]):
    """What the watcher remembers of many hosts."""
