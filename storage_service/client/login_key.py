"""A private key in a file, to log in with where no agent holds it. It needs ``cryptography``, of the extra ``cli``."""

from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from strongroom.models.errors import StrongroomError
from strongroom.storage_service.client.login import NoKey, public_blob
from strongroom.storage_service.jose import to_public_key
from strongroom.storage_service.wire import ssh

MAX_FILE: Final = 64 * 1024  # bytes

_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "ecdsa-sha2-nistp256": hashes.SHA256(),
    "ecdsa-sha2-nistp384": hashes.SHA384(),
    "ecdsa-sha2-nistp521": hashes.SHA512(),
}

_Private: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


class PassphraseNeeded(StrongroomError):
    """The key is encrypted: its passphrase is to be asked for."""


class PassphraseWrong(StrongroomError):
    """The passphrase does not open the key."""


class FileKey:
    """A private key, as a file of OpenSSH or PEM held it. Nothing of this class shows it."""

    __slots__ = ("_kind", "_private", "blob")

    def __init__(self, text: bytes, passphrase: bytes | None = None) -> None:
        """Take what the file holds, and its passphrase if it has one.

        Raises:
            NoKey: it holds no key that logs in.
            PassphraseNeeded, PassphraseWrong: it is encrypted.
        """
        private = _loaded(text, passphrase)
        public = private.public_key()
        line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.blob = public_blob(line.decode())
        self._kind = ssh.kind_of(self.blob)
        self._private = private

    @classmethod
    def read(cls, path: Path, passphrase: bytes | None = None) -> "FileKey":
        """Return the key that the file at *path* holds; errors as the constructor's."""
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE + 1)
        except OSError as error:
            raise NoKey(f"the key cannot be read from {path}: {error.strerror}") from None
        return cls(text, passphrase)

    def __repr__(self) -> str:
        return f"<FileKey {ssh.fingerprint_of(self.blob)}>"

    def sign(self, data: bytes) -> bytes:
        """Return its signature over *data*, as SSH spells it."""
        if isinstance(self._private, rsa.RSAPrivateKey):
            signature = self._private.sign(data, padding.PKCS1v15(), hashes.SHA512())
            return ssh.string("rsa-sha2-512") + ssh.string(signature)
        if isinstance(self._private, Ed25519PrivateKey):
            return ssh.string(self._kind) + ssh.string(self._private.sign(data))
        r, s = decode_dss_signature(self._private.sign(data, ec.ECDSA(_HASHES[self._kind])))
        return ssh.string(self._kind) + ssh.string(ssh.positive(r) + ssh.positive(s))

    def decrypt(self, token: bytes) -> bytes:
        """Return what was encrypted to it as *token*.

        Raises:
            NoKey: a key of its kind signs, and does not decrypt.
            ValueError: nothing was.
        """
        if isinstance(self._private, Ed25519PrivateKey):
            raise NoKey("an Ed25519 key signs, and does not decrypt")
        return to_public_key.decrypt(self._private, token)


def _loaded(text: bytes, passphrase: bytes | None) -> _Private:
    if len(text) > MAX_FILE:
        raise NoKey("the file is longer than a private key can be")
    load = (
        serialization.load_ssh_private_key if text.lstrip().startswith(_OPENSSH) else serialization.load_pem_private_key
    )
    try:
        private = load(text, passphrase)
    except TypeError:  # a passphrase is missing, or there is one too many
        if passphrase is not None:
            return _loaded(text, None)
        raise PassphraseNeeded("the key has a passphrase") from None
    except UnsupportedAlgorithm:
        raise NoKey("a key of this kind cannot be read from its file: add it to the SSH agent with ssh-add") from None
    except ValueError:
        if passphrase is not None:
            raise PassphraseWrong("the passphrase does not open the key, or the file is damaged") from None
        raise NoKey("the file holds no private key of OpenSSH or PEM") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name not in _CURVES:
        raise NoKey("the key is on a curve that logs nobody in")
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise NoKey("a key of this kind logs nobody in: RSA, EC and Ed25519 do")
    return private


_CURVES: Final = frozenset(("secp256r1", "secp384r1", "secp521r1"))
