"""The operations of a login, in the manner of ``operations``: a challenge, what answers it, and the end of a token."""

import msgspec

from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.login import LoggedIn
from strongroom.storage_service.client.operations import decode, segment
from strongroom.storage_service.client.retries import Call, Effect, Operation
from strongroom.storage_service.errors import Denied
from strongroom.storage_service.wire import login

_NOBODY = "that key logs in nobody of that name; it may have been taken away, or be another's"


def challenge(asked: login.AskedChallenge) -> Operation[login.Challenge]:
    """Return a challenge, for whoever asks: ``client.login.answer`` answers it. `login` of a client does all of it.

    Raises:
        Invalid: it is for another service, or malformed.
    """
    call = Call("POST", login.CHALLENGE_PATH, Effect.READ, msgspec.json.encode(asked), {"Content-Type": wire.JSON})
    return decode((yield call), login.Challenge)


def answer_challenge(answer: login.Answer) -> Operation[LoggedIn]:
    """Return the token that an answer is worth, which is good once.

    Raises:
        Denied: it is wrong, or comes too late, or again; which, is told to nobody.
    """
    body = msgspec.json.encode(answer)
    call = Call("POST", login.LOGIN_PATH, Effect.WRITE, body, {"Content-Type": wire.JSON}, says={Denied: _NOBODY})
    given = decode((yield call), login.Token)
    return LoggedIn(given.principal, Secret(given.token), given.expires)


def logout() -> Operation[None]:
    """End the token that this client shows, at once and everywhere.

    Raises:
        NotAuthenticated: it shows none, or one that was worth nothing already.
    """
    yield Call("DELETE", login.TOKEN_PATH, Effect.WRITE)


def revoke_token(jti: str, after: str = "") -> Operation[None]:
    """End the token of that id, at once or *after* a while (``10m``).

    Raises:
        NotFound: there can be none.
    """
    if not after.isalnum() and after:
        raise InvalidName("a duration is numbers with Y, M, w, d, h, m, s or ms, as in 1h30m")
    yield Call("DELETE", f"{login.TOKEN_PATH}/{segment(jti)}" + (f"?in={after}" if after else ""), Effect.WRITE)
