"""What people hold to unlock the service: unlock keys, any one of which opens, or shares, some of which open together.

    SR1-0K4TQ-…-W7Z         an unlock key: 256 random bits and their CRC-32, in Crockford's base 32 (crockford.com)
    academic acid … zero    a share: 33 words of SLIP-39, one group, no passphrase, for a random 256-bit secret

Either becomes a `Key` by HKDF-SHA512 (RFC 5869), which wraps the root key elsewhere; its kid is derived beside it and
tells nothing of it. Neither is stretched any further than SLIP-39 demands: what is guessed is 256 random bits, and no
number of rounds makes that harder.

What was typed is not trusted: it is measured first, each line is checked by itself before any of them is combined,
and a fault is told by the number of its line among those that are not blank, never by what stands there. Combining
takes some milliseconds of the processor; a service does it off its event loop.
"""

import hmac
import secrets
import zlib
from base64 import b32hexdecode, b32hexencode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from shamir_mnemonic import MnemonicError, Share, decode_mnemonics, generate_mnemonics, recover_ems
from shamir_mnemonic.wordlist import WORD_INDEX_MAP as WORDS

from strongroom.models.secret import Secret
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.jose.key import Key

Kind: TypeAlias = Literal["unlock", "shares"]

MAX_KEYS: Final = 16  # made at once; of shares, SLIP-39 has no more either
MAX_LINES: Final = 64  # read at once, blank ones not counted
MAX_TEXT: Final = 64 * 1024  # characters read at once

SECRET_SIZE: Final = 32  # bytes behind an unlock key, or behind a set of shares
PREFIX: Final = "SR1"  # the form of an unlock key; another form gets another number
GROUP: Final = 5  # characters between dashes
SHARE_WORDS: Final = 33  # what SLIP-39 needs for 256 bits

_CHECKSUM_SIZE: Final = 4  # bytes
_KEY_LENGTH: Final = -(-(SECRET_SIZE + _CHECKSUM_SIZE) * 8 // 5)  # characters after the prefix
_KID_SIZE: Final = 5  # bytes: eight characters without a bit to spare
_EXPONENT: Final = 0  # SLIP-39's least: 10,000 rounds of PBKDF2 in all

_HEX32: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"  # RFC 4648 sec. 7
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O, which look like digits, and U
_TO_CROCKFORD: Final = str.maketrans(_HEX32, _CROCKFORD)
_TO_HEX32: Final = str.maketrans(_CROCKFORD, _HEX32)
_DASHES: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # as word processors make of one
_INVISIBLE: Final = str.maketrans("", "", "\u00ad\u200b\u200c\u200d\u2060\ufeff")  # come with copied text and files
_ALIKE: Final = str.maketrans("ILO", "110", _DASHES)  # letters that no key has are the digits they look like


class Mistyped(Invalid):
    """What a person typed does not do as it stands; *number* is the key, share or line at fault, None for the whole."""

    def __init__(self, reason: str, number: int | None = None) -> None:
        super().__init__(reason)
        self.number = number


class TooFew(Mistyped):
    """All shares are in order and of one set, but *needed* of them open, and only *given* were given."""

    def __init__(self, given: int, needed: int) -> None:
        missing = needed - given
        shares = "1 more share is" if missing == 1 else f"{missing} more shares are"
        super().__init__(f"{shares} needed ({given} of {needed} given)")
        self.given = given
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Candidate:
    """Keys that the root key may be wrapped under; shares have become one. Only the wraps tell whether one opens."""

    kind: Kind
    keys: tuple[Key, ...]


def make_keys(count: int, random: Callable[[int], bytes] = secrets.token_bytes) -> list[tuple[Secret, Key]]:
    """Return *count* unlock keys that have nothing to do with each other: the text for its holder, and the key.

    Args:
        count: 1 to `MAX_KEYS`.
        random: gives that many unpredictable bytes.

    Raises:
        ValueError: no such count.
    """
    if not 1 <= count <= MAX_KEYS:
        raise ValueError(f"unlock keys are 1 to {MAX_KEYS}")
    made = [random(SECRET_SIZE) for _ in range(count)]
    return [(Secret(_spell(secret)), _derive("unlock", secret)) for secret in made]


def make_shares(
    threshold: int, total: int, random: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[list[Secret], Key]:
    """Return *total* shares, any *threshold* of which give the key, and the key; fewer tell nothing of it.

    Args:
        threshold: 1 to *total*.
        total: 1 to `MAX_KEYS`.
        random: gives that many unpredictable bytes, for the secret that is shared; the shares' own randomness is
            that of the operating system in any case.

    Raises:
        ValueError: no such numbers, or one share would be enough among several, which is what unlock keys are for.
    """
    if not 1 <= threshold <= total <= MAX_KEYS:
        raise ValueError(f"there are 1 to {MAX_KEYS} shares, and the threshold is between 1 and their number")
    if threshold == 1 < total:
        raise ValueError("for keys of which any one opens, use unlock keys: use unlock keys")
    secret = random(SECRET_SIZE)
    [mnemonics] = generate_mnemonics(1, [(threshold, total)], secret, extendable=True, iteration_exponent=_EXPONENT)
    return [Secret(mnemonic) for mnemonic in mnemonics], _derive("shares", secret)


def parse(text: str) -> Candidate:
    """Return what *text* gives: unlock keys, one a line, or shares, one a line.

    Case, blank lines, and how much white space stands between words do not matter; in a key, neither do white space
    and dashes at all. More shares than needed are welcome, and each is held to the others.

    Raises:
        TooFew: shares are missing.
        Mistyped: anything else that keeps *text* from being keys or shares; the message says which line, and how.
    """
    if len(text) > MAX_TEXT:
        raise Mistyped(f"at most {MAX_TEXT} characters are read at once")
    lines = [line for line in text.translate(_INVISIBLE).splitlines() if line.strip()]
    if not lines:
        raise Mistyped("nothing was given")
    if len(lines) > MAX_LINES:
        raise Mistyped(f"at most {MAX_LINES} lines are read at once")
    kind, *others = {_kind(number, line) for number, line in enumerate(lines, 1)}
    if others:
        raise Mistyped("keys and shares are mixed; give one kind only")
    if kind == "shares":
        shares = [_share(number, line) for number, line in enumerate(lines, 1)]
        return Candidate(kind, (_derive(kind, _combine(shares)),))
    return Candidate(kind, tuple(_derive(kind, _read(number, line)) for number, line in enumerate(lines, 1)))


def _derive(kind: Kind, secret: bytes) -> Key:
    """Return the key, and its kid, that a person's *secret* stands for."""
    kid = HKDF(SHA512(), _KID_SIZE, None, f"strongroom {kind} v1 kid".encode()).derive(secret)
    octets = HKDF(SHA512(), KEY_SIZE, None, f"strongroom {kind} v1 key".encode()).derive(secret)
    return Key(f"{kind}.{_base32(kid).lower()}", octets)


def _kind(number: int, line: str) -> Kind:
    if _characters(line).startswith(PREFIX):
        return "unlock"
    if any(word in WORDS for word in line.lower().split()):
        return "shares"
    raise Mistyped(
        f"line {number} is neither an unlock key, which begins with {PREFIX}, nor a share of {SHARE_WORDS} words",
        number,
    )


# Unlock keys.


def _spell(secret: bytes) -> str:
    text = _base32(secret + _checksum(secret))
    return "-".join([PREFIX, *(text[start : start + GROUP] for start in range(0, len(text), GROUP))])


def _read(number: int, line: str) -> bytes:
    """Return the secret that the unlock key in *line* spells."""
    text = _characters(line).removeprefix(PREFIX)
    for place, character in enumerate(text):
        if character not in _CROCKFORD:
            group = place // GROUP + 1
            raise Mistyped(f"key {number}: group {group} after {PREFIX} has a character that keys do not use", number)
    if len(text) != _KEY_LENGTH:
        raise Mistyped(f"key {number} has {len(text)} characters after {PREFIX}, not {_KEY_LENGTH}", number)
    decoded = b32hexdecode(text.translate(_TO_HEX32) + "=" * (-len(text) % 8))
    secret, checksum = decoded[:SECRET_SIZE], decoded[SECRET_SIZE:]
    # The last character has bits to spare; spelled back, they are zero.
    if not hmac.compare_digest(checksum, _checksum(secret)) or not hmac.compare_digest(_base32(decoded), text):
        raise Mistyped(f"key {number} is mistyped: its checksum is wrong", number)
    return secret


def _characters(line: str) -> str:
    """Return the characters of *line* that count in an unlock key, each in the one form that keys have."""
    return "".join(line.upper().split()).translate(_ALIKE)


def _base32(octets: bytes) -> str:
    return b32hexencode(octets).decode().rstrip("=").translate(_TO_CROCKFORD)


def _checksum(secret: bytes) -> bytes:
    # A CRC, and least byte first as its bits run: so every wrong group of five characters is found for certain,
    # which a cut hash would not promise. It keeps nobody out, and need not.
    return zlib.crc32(PREFIX.encode() + secret).to_bytes(_CHECKSUM_SIZE, "little")


# Shares.


def _share(number: int, line: str) -> Share:
    """Return the share in *line*, after all checks that one share can be put to."""
    words = line.lower().split()
    for place, word in enumerate(words, 1):
        if word not in WORDS:
            raise Mistyped(f"share {number}: word {place} is not in the word list", number)
    if len(words) != SHARE_WORDS:
        raise Mistyped(f"share {number} has {len(words)} words, not {SHARE_WORDS}", number)
    try:
        share = Share.from_mnemonic(" ".join(words))
    except MnemonicError:  # its text repeats words, so nothing of it may hang on the error that is raised
        share = None
    if share is None:
        raise Mistyped(f"share {number} is mistyped: its checksum is wrong", number)
    # The exponent above all: it is the share's own say in how long combining takes, up to 2**15 times as long.
    if (share.extendable, share.iteration_exponent, share.group_count) != (True, _EXPONENT, 1):
        raise Mistyped(f"share {number} is a share by SLIP-39, but not one of this service", number)
    return share


def _combine(shares: Sequence[Share]) -> bytes:
    """Return the secret that *shares* were made of."""
    for number, share in enumerate(shares, 1):
        if share.group_parameters() != shares[0].group_parameters():
            raise Mistyped(f"share {number} is of another set than share 1", number)
        if share in shares[: number - 1]:
            raise Mistyped(f"share {number} was given twice: it is share {shares.index(share) + 1} again", number)
    needed = shares[0].member_threshold
    if len(shares) < needed:
        raise TooFew(len(shares), needed)
    # Each share beyond those needed stands in for the last of these in turn, so that none goes unchecked.
    most, rest = shares[: needed - 1], shares[needed - 1 :]
    secret, *again = [_recover([*most, share]) for share in rest]
    if not all(hmac.compare_digest(secret, other) for other in again):
        raise _strangers()
    return secret


def _recover(shares: Sequence[Share]) -> bytes:
    """Return the secret of exactly as many *shares* as are needed, proven by the digest that SLIP-39 shares with it."""
    try:
        return bytes(recover_ems(decode_mnemonics(share.mnemonic() for share in shares)).decrypt(b""))
    except MnemonicError:
        pass  # raised below, so that the text of this one does not hang on it
    raise _strangers()


def _strangers() -> Mistyped:
    return Mistyped("these shares do not belong together")
