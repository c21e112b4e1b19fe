"""All refusals and failures of the service, on one page. Nothing here knows HTTP: ``wire`` has that table.

Two trees. `ServiceError` is an answer to a caller and crosses the socket by its *code*; `StartupError` is an answer
to the operator and ends the process with a message that says what to do. What can be done with a verb of ours stands
beside the message, as steps: no text here spells a command.
"""

from enum import StrEnum
from typing import ClassVar

from strongroom.models import errors as model_errors

StrongroomError = model_errors.StrongroomError


class Fate(StrEnum):
    """What became of a write that was not answered with success."""

    NOT_APPLIED = "not-applied"
    APPLIED = "applied"
    UNKNOWN = "unknown"


class ServiceError(StrongroomError):
    """Base of all answers that are not the thing asked for. Texts never contain what the caller sent.

    *fate* is what became of the write that is answered so: a refusal comes before it, unless somebody knows better.
    A client's errors know of which record they are, by its *name* (of several, by what their names begin with), and the
    *request_id* by which the service's log and audit log know the request; both stand in their text.
    """

    code: ClassVar[str] = "internal"
    told = False  # it is an answer of the service, which has recorded it
    applied = 0  # how many of several writes are done all the same, of the first of them
    fate: Fate = Fate.NOT_APPLIED
    name = ""
    request_id = ""
    inner = ""  # what the audit log says of it, and no caller is told

    @property
    def recorded(self) -> str:
        """What the audit log says of it."""
        return f"{self} ({self.inner})" if self.inner else str(self)

    def __str__(self) -> str:
        if not self.request_id:
            return self.text
        return f"{self.text} ({self.name and f'{self.name}, '}request {self.request_id})"


class Invalid(ServiceError):
    """The request breaks a rule; *faults* lists (field, reason) where fields are at fault."""

    code = "invalid"

    def __init__(self, reason: str, faults: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.faults = faults


class NotAuthenticated(ServiceError):
    """No credentials came with the request."""

    code = "not-authenticated"


class Denied(ServiceError):
    """The credentials are wrong, or do not reach this name. Which of the two is not said."""

    code = "denied"


class Forbidden(Denied):
    """Somebody who is known may not do what he asks for himself, and is told why."""

    code = "forbidden"


class NotFound(ServiceError):
    """There is no such record."""

    code = "not-found"


class NoContainer(NotFound):
    """The container the name lies in does not exist."""

    code = "no-container"


class MethodNotAllowed(ServiceError):
    """The verb does not fit the name: a container needs its trailing slash, a secret has none.

    *allowed* are the verbs that do.
    """

    code = "method-not-allowed"

    def __init__(self, reason: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.allowed = allowed


class NotAcceptable(ServiceError):
    """A message type, or a form of answer, that is not served here."""

    code = "not-acceptable"


class Exists(ServiceError):
    """It is there already, and the request did not say to replace it."""

    code = "exists"


class Contradicted(ServiceError):
    """The records as they are contradict the request: to send it again helps nothing."""

    code = "contradicted"


class NotEmpty(ServiceError):
    """The container still holds something."""

    code = "not-empty"


class Changed(ServiceError):
    """The record is not at the revision the request expected."""

    code = "changed"


class TooLarge(ServiceError):
    """Body or value is over its limit."""

    code = "too-large"


class NotImplementedHere(ServiceError):
    """A method this service does not have."""

    code = "not-implemented"


class Locked(ServiceError):
    """The service holds no root key at this moment; plain records go on working."""

    code = "locked"


class Uninitialized(Locked):
    """The store has no keyring yet: somebody has to make one before there can be secrets."""

    code = "uninitialized"


class Behind(Locked):
    """The store's keyring is of another root key than this machine can open; secrets are not written here for now.

    A worker that had the keys before goes on reading. The log of the service says what to put where.
    """

    code = "keyring-behind"


class Halted(ServiceError):
    """Secrets are not written for now: re-encryption could neither be finished nor reverted. Every key is kept.

    *holders* names the generations, and the records that are still under them.
    """

    code = "halted"

    def __init__(self, reason: str, holders: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.holders = holders


class WrongKey(ServiceError):
    """What was given opens no wrap of the root key."""

    code = "wrong-key"


class TooManyAttempts(ServiceError):
    """Wrong keys were given; the next one is tried only after *wait* seconds."""

    code = "too-many-attempts"

    def __init__(self, reason: str, wait: float = 1.0) -> None:
        super().__init__(reason)
        self.wait = wait


class TooManyRequests(ServiceError):
    """Whoever asks has asked too often; the next request is served after *wait* seconds.

    *limit* is how many a minute there may be, where the service says so.
    """

    code = "too-many-requests"

    def __init__(self, reason: str, wait: float = 1.0, limit: int = 0) -> None:
        super().__init__(reason)
        self.wait = wait
        self.limit = limit


class InUse(ServiceError):
    """A key, a keyset or a generation is still needed; *holders* names by what."""

    code = "in-use"

    def __init__(self, reason: str, holders: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.holders = holders


class Unusable(ServiceError):
    """The keyring, a wrap or the key file cannot be used as it is; the text tells the operator what to do."""

    code = "keyring-unusable"
    fate = Fate.UNKNOWN


class Overtaken(ServiceError):
    """Somebody else changed the keyring meanwhile, and nothing was done."""

    code = "overtaken"


class Unavailable(ServiceError):
    """The store, or the service itself, does not answer; *fate* says what became of a write.

    *retry_after* is in seconds, where it is known when asking again may help.
    """

    code = "unavailable"

    def __init__(self, reason: str, fate: Fate = Fate.NOT_APPLIED, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.fate = fate
        self.retry_after = retry_after


class StoreFails(Unavailable):
    """The store does not do its work, while the service does: *plain* is what whoever asks may know of that."""

    def __init__(
        self,
        reason: str,
        fate: Fate = Fate.NOT_APPLIED,
        retry_after: float | None = None,
        *,
        plain: str = "the store does not answer",
    ) -> None:
        super().__init__(reason, fate, retry_after)
        self.plain = plain


class Busy(Unavailable):
    """Others are served, and there is no place to wait any more; the text says whose, and the same works again soon."""

    code = "busy"


class Untrusted(Unavailable):
    """Who listens where the service should cannot show that it is the service; the text says what to do.

    So it is where TLS is spoken to who speaks none, and the other way round.
    """


class NotListening(Unavailable):
    """Nobody listens where the service should: it does not run, or runs elsewhere."""


class Barred(Unavailable):
    """The user whom this runs as may not open the service's socket; the text says what keeps it out."""


class AuditUnavailable(ServiceError):
    """The audit log cannot be written, and what cannot be recorded is not done.

    *plain* is why, without the names of files, so that whoever asked may know it, too.
    """

    code = "audit-unavailable"
    plain = ""

    def __init__(self, reason: str, *, plain: str = "") -> None:
        super().__init__(reason)
        self.plain = plain


class Internal(ServiceError):
    """Something broke inside; the caller learns no more than that, the log has the rest."""

    fate = Fate.UNKNOWN


class Undecipherable(Internal):
    """A stored value does not open under its name: edited, cut, swapped, or under a key not in the ring.

    The *reason* is for the audit log; outside, every reason is the same 'internal'.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class Malformed(Internal):
    """What is stored under a name is no valid record of its model; the text names the record, and nothing of it."""

    code = "malformed-record"
    fate = Fate.NOT_APPLIED  # it was read, and nothing else


class NotFollowed(Internal):
    """The keyring in the store has become one that this service cannot use; the text tells the operator what to do."""


class StartupError(StrongroomError):
    """Base of what stops the service from starting; the text tells the operator what to do."""


class ConfigurationError(StartupError):
    """The configuration contradicts itself, or says something this version does not know."""


class NoCredentials(ConfigurationError):
    """The service's address is known, or could be, and nothing that is shown to it there can be read."""


class KeyFileMissing(StartupError):
    """The store holds secrets or keys but the root key file is gone; a new one would strand them."""


class WrongRootKey(StartupError):
    """The root key file does not open the keys that the store holds."""


class KeyFileUnusable(StartupError):
    """The root key file is there, but it is no key, or others could read or change it."""


class KeyringOutdated(StartupError):
    """The store's keyring opens, but a newer one was seen here; somebody may have put the old one back."""


class KeyringDamaged(StartupError):
    """The store holds secrets without their data keys, or wrapped keys that its own root key does not open."""
