"""What of SSH crosses our wires: its strings, how a public key is spelled, and signatures of files (PROTOCOL.sshsig).

    SSHSIG, version 1, string public key, string namespace, string "", string hash, string signature

A signature is over the namespace and the hash of the message, so that one made to log in is worth nothing elsewhere,
nor one made elsewhere here. Nothing here knows a key's mathematics.
"""

import base64
import binascii
import hashlib
from typing import Final, NamedTuple, NoReturn

NAMESPACE: Final = "login@strongroom"
SHA512: Final = "sha512"
HASHES: Final = frozenset((SHA512, "sha256"))  # those of PROTOCOL.sshsig; SHA-1 is none of them

MAX_KEY: Final = 4096  # bytes of a public key's blob: RSA of 16,384 bits has 2,073
MAX_SIGNATURE: Final = 8192  # bytes of a signature with its key
MAX_ARMORED: Final = MAX_SIGNATURE * 3 // 2  # characters

_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_LINE: Final = 70  # characters of base64, as ssh-keygen writes them


class Malformed(ValueError):
    """It is not spelled as SSH spells it; the message names the rule and never what was given."""


class Reader:
    """Takes apart what SSH put together, and never reads past its end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes.

        Raises:
            Malformed: there are fewer.
        """
        end = self._at + count
        if end > len(self._data):
            raise Malformed("it ends before its last part does")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self) -> int:
        """Return the next number of 32 bits.

        Raises:
            Malformed: there is none.
        """
        return int.from_bytes(self.take(4))

    def string(self) -> bytes:
        """Return the next string.

        Raises:
            Malformed: there is none.
        """
        return self.take(self.number())

    def text(self) -> str:
        """Return the next string, which is of printable ASCII.

        Raises:
            Malformed: it is not, or there is none.
        """
        taken = self.string()
        if not (taken.isascii() and taken.decode("latin-1").isprintable()):
            raise Malformed("a name in it is not of printable ASCII")
        return taken.decode("ascii")

    def positive(self) -> int:
        """Return the next number of any size (mpint), which is positive and spelled with no byte too many.

        Raises:
            Malformed: it is not, or there is none.
        """
        taken = self.string()
        if not taken or taken[0] & 0x80 or (taken[0] == 0 and (len(taken) == 1 or not taken[1] & 0x80)):
            raise Malformed("a number in it is not positive, or spelled with bytes to spare")
        return int.from_bytes(taken)

    def end(self) -> None:
        """Return if all was read.

        Raises:
            Malformed: there is more.
        """
        if self._at != len(self._data):
            raise Malformed("something follows its last part")


def string(content: bytes | str) -> bytes:
    """Return *content* as SSH spells a string."""
    content = content.encode() if isinstance(content, str) else content
    return len(content).to_bytes(4) + content


def positive(number: int) -> bytes:
    """Return a positive *number* as SSH spells it (mpint)."""
    return string(number.to_bytes(number.bit_length() // 8 + 1))


def kind_of(blob: bytes) -> str:
    """Return what kind of public key *blob* is: its first string.

    Raises:
        Malformed: it has none.
    """
    return Reader(blob).text()


def line_of(blob: bytes) -> str:
    """Return the public key *blob* as a line of ``authorized_keys``, without options and comment."""
    return f"{kind_of(blob)} {base64.b64encode(blob).decode()}"


def fingerprint_of(blob: bytes) -> str:
    """Return the fingerprint of the public key *blob*, as ``ssh-keygen -l`` tells it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


class Signature(NamedTuple):
    """A signature of a message, taken apart and not yet verified."""

    key: bytes  # the public key's blob
    hash: str
    signature: bytes  # as the key's kind has it


def to_be_signed(message: bytes, hash_name: str = SHA512) -> bytes:
    """Return what is signed to log in: not *message* itself but its hash, below our namespace."""
    hashed = hashlib.new(hash_name, message).digest()
    return _MAGIC + string(NAMESPACE) + string(b"") + string(hash_name) + string(hashed)


def armored(key: bytes, signature: bytes, hash_name: str = SHA512) -> str:
    """Return *signature*, made over `to_be_signed`, as ``ssh-keygen -Y sign`` writes it."""
    head = _MAGIC + _VERSION.to_bytes(4) + string(key) + string(NAMESPACE) + string(b"")
    text = base64.b64encode(head + string(hash_name) + string(signature)).decode()
    return "\n".join((_BEGIN, *(text[at : at + _LINE] for at in range(0, len(text), _LINE)), _END, ""))


def signature_of(text: str) -> Signature:
    """Return the signature that *text* holds in ``ssh-keygen``'s armour; it must have been made to log in here.

    Raises:
        Malformed: it holds none, or one for something else.
    """
    if len(text) > MAX_ARMORED:
        _refuse("a signature is longer than any can be")
    first, *lines = text.strip().splitlines() or [""]
    if first != _BEGIN or not lines or lines.pop() != _END:
        _refuse("it is not an armoured SSH signature, as ssh-keygen -Y sign writes it")
    try:
        reader = Reader(base64.b64decode("".join(lines), validate=True))
    except (binascii.Error, ValueError):
        raise Malformed("its armour is not base64") from None
    if reader.take(len(_MAGIC)) != _MAGIC or reader.number() != _VERSION:
        _refuse("it is not an SSH signature of version 1")
    key = reader.string()
    if len(key) > MAX_KEY:
        _refuse("its key is longer than any can be")
    if reader.string() != NAMESPACE.encode():
        _refuse(f"it was made for another namespace than {NAMESPACE}")
    if reader.string():
        _refuse("it has something in the part that is reserved")
    hash_name = reader.text()
    if hash_name not in HASHES:
        _refuse("it hashes with neither sha512 nor sha256")
    signature = reader.string()
    reader.end()
    return Signature(key, hash_name, signature)


def _refuse(why: str) -> NoReturn:
    raise Malformed(why)
