"""A value that never shows itself: the redaction rides on the type, so that no log line has to remember it."""

import hmac
from typing import Final, NoReturn

REDACTED: Final = "********"


class Secret:
    """A secret text that only :meth:`reveal` gives out.

    ``str``, ``repr`` and formatting show ``********``; comparing takes the same time wherever two secrets differ;
    pickling and copying into other serialisers are refused. Python cannot wipe the text from memory when it is
    dropped, and this class does not claim to.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __len__(self) -> int:
        return len(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (secret._text.encode(errors="surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]  # a hash would be a fast oracle for short secrets

    def __repr__(self) -> str:
        return f"Secret('{REDACTED}')"

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
