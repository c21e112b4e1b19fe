"""How sources make records: one rule for each kind of value, wherever it lay before."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from strongroom.migration.records import Record
from strongroom.migration.sources import files, ssh_keys
from strongroom.migration.sources.files import Unfit
from strongroom.models import MODELS, Host, HostCreds, InvalidName, Model, SecretModel, ValidationError, names
from strongroom.models.rules import means_secret
from strongroom.models.secret import Secret
from strongroom.storage_service.wire import MAX_SECRET, fits

CREDENTIALS: Final = ("ssh_priv_key", "remote_user")
"""The fields of `HostCreds` that were part of a `Host` before CPD-101."""

_PEM: Final = "-----BEGIN "
_MODELS_OF_SECRETS: Final = {model.prefix(): model for model in MODELS.values() if issubclass(model, SecretModel)}


def key_text(value: str) -> str:
    """Return an SSH key as `HostCreds` keeps it: a PEM text is encoded, base64 loses its line breaks.

    Raises:
        Unfit: it is neither.
    """
    if _PEM in value:
        return base64.b64encode(value.encode()).decode()
    text = "".join(value.split())
    try:
        if base64.b64encode(base64.b64decode(text)).decode() == text:
            return text
    except ValueError:
        pass
    raise Unfit("its SSH key is neither PEM nor base64")


def key_of_file(content: bytes) -> str:
    """Return the content of a key file as `HostCreds` keeps it.

    Raises:
        Unfit: as far as one can see, it is not a private key.
    """
    if not content.strip():
        raise Unfit("its key file is empty")
    if ssh_keys.is_public(content):
        raise Unfit("its key file holds a public key")
    return base64.b64encode(content).decode()


def credentials(said: str, key: str, user: str = "") -> Record:
    """Return the credentials of the host whose address is *said*.

    *key* is as `key_text` gives it, and an empty *user* means root.

    Raises:
        Unfit: they are not valid.
    """
    host_address, user = address(said, user)
    return of(HostCreds, {"address": host_address, "ssh_priv_key": key} | ({"remote_user": user} if user else {}))


def host(fields: Mapping[str, object]) -> tuple[Record, ...]:
    """Return a host, in its form of today or with its credentials inside, as the records that it becomes.

    Credentials that are empty or missing count as absent.

    Raises:
        Unfit: a field is not valid.
    """
    plain = {name: value for name, value in fields.items() if name not in CREDENTIALS}
    key, user = (fields.get(name) or "" for name in CREDENTIALS)
    if not isinstance(key, str) or not isinstance(user, str):
        raise Unfit("its ssh_priv_key and remote_user must be text")
    if isinstance(plain.get("address"), str):
        plain["address"], user = address(str(plain["address"]), user)
    record = of(Host, plain)
    if not key and not user:
        return (record,)
    return record, credentials(str(plain.get("address", "")), key_text(key), user)


def address(said: str, user: str) -> tuple[str, str]:
    """Return the address and the user of a host that may be written as ssh takes it: ``pi@10.0.0.7``.

    Raises:
        Unfit: two users are said, or no host.
    """
    before, at, after = said.rpartition("@")
    if not at:
        return said, user
    if not before or not after or (user and user != before):
        raise Unfit("its address must be a host's, or user@host with the user that is said beside it")
    return after, before


def left_behind(what: str, names: Iterable[str]) -> list[str]:
    """Return what is to be told of fields that stay behind: first of those that are secrets by their names."""
    shown = sorted(names)
    secret = [files.printable(name) for name in shown if means_secret(name)]
    others = [files.printable(name) for name in shown if not means_secret(name)]
    told = [f"{what} that look like secrets stay behind: {', '.join(secret)}"] if secret else []
    return [*told, f"{what} that stay behind: {', '.join(others)}"] if others else told


def of(model: type[Model], fields: Mapping[str, Any]) -> Record:
    """Return the record of *model* that has *fields*.

    Raises:
        Unfit: they are not valid, or too large to be stored.
    """
    try:
        record = Record.of(model.from_dict(fields))
    except ValidationError as error:
        reason = str(error)
    else:
        if len(record.value) > MAX_SECRET:
            raise Unfit(f"it is over {MAX_SECRET // 1024} KiB")
        return record
    raise Unfit(reason)  # out here: the error knows the model's values


def secret(name: str, value: str | bytes) -> Record:
    """Return a generic secret; bytes that are no UTF-8 text are kept in base64, as Custodia does.

    Raises:
        Unfit: it has no name that a secret can have, is empty or too large, or lies among the secrets of a model and
            is not one of them.
    """
    text = value if isinstance(value, str) else _text_of(value)
    try:
        names.check(name)
        encoded = text.encode()
    except InvalidName:
        raise Unfit("its name has characters that names do not allow, or is too long") from None
    except UnicodeEncodeError:
        raise Unfit("its value is not Unicode text") from None
    if not name.startswith(names.SECRETS):
        raise Unfit(f"its name must begin with {names.SECRETS}, as in {names.SECRETS}db/password")
    if names.is_container(name):
        raise Unfit("its name ends in a slash, as a container's does; a secret's ends in its key: CONTAINER/KEY")
    if name.count("/") < 2:
        raise Unfit("it lies in no container, and every secret lies in one: CONTAINER/KEY")
    if not text:
        raise Unfit("its value is empty")
    if not fits(encoded):
        raise Unfit(f"its value is over {MAX_SECRET // 1024} KiB")
    model = _MODELS_OF_SECRETS.get(names.container_of(name))
    if model is not None and not _is_record(model, name, text):
        raise Unfit(f"it lies where the records of {model.__name__} lie, and is invalid")
    return Record(name, Secret(text))


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _is_record(model: type[Model], name: str, text: str) -> bool:
    try:
        return model.from_json(base64.b64decode(text, validate=True)).record_name == name
    except ValueError:
        return False
