"""The errors that end a migration. No text holds a secret; each says what to do, or has steps."""

from strongroom.storage_service.errors import StrongroomError


class MigrationError(StrongroomError):
    """Base of all errors of this package; never raised itself."""


class SourceUnavailable(MigrationError):
    """The source does not answer, or cannot be read. Nothing of it was changed, unless the text says what."""


class SourceRefused(MigrationError):
    """The source does not accept us: a wrong token, key or password."""


class RunHeld(MigrationError):
    """Another process has a migration of this service under way, or has taken this one over."""


class NoSuchRun(MigrationError):
    """There is no run of that name, or none of that source."""


class NotVerified(MigrationError):
    """Nothing is taken from the source before all that lies there was proved to be in the service."""


class Mismatch(MigrationError):
    """What was read back is not what was saved. Nothing at the source was touched."""


class Forged(MigrationError):
    """A report is not as it was signed, or was signed with another key."""
