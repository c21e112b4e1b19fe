"""What Custodia keeps, as Strongroom keeps it.

    keys/hosts/10.0.0.7     secrets/hosts/10.0.0.7      the value of the simple message that Custodia would answer

Custodia keeps text: octets that were PUT lie there in base64, and Strongroom keeps them so too. In the containers of
secret models every value must be such a model's, as CPD-101's handler stored it: its JSON, in base64.
"""

import base64
import binascii
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from migration.records import Item, Record
from models import MODELS, HostCreds, InvalidName, SecretModel, ValidationError, names, strict_json
from models.secret import Secret
from storage_service.wire import MAX_SECRET

EMPTY_CONTAINER: Final = "an empty container: it stays behind, and Strongroom makes one when a secret is put into it"

_SECRET_MODELS: Final = {model.prefix(): model for model in MODELS.values() if issubclass(model, SecretModel)}
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_PEM: Final = "-----BEGIN "


class Outcome(NamedTuple):
    """What becomes of one value: a record, a fault, or nothing but notes."""

    records: tuple[Record, ...] = ()
    fault: str = ""
    notes: tuple[str, ...] = ()

    def item(self, key: str, mark: str) -> Item:
        """Return it as the item *key*."""
        return Item(key, mark, self.records, self.fault, self.notes)


def id_of(key: bytes) -> str:
    """Return *key* in printable ASCII: every other byte, and the percent sign, as ``%XX``."""
    return quote_from_bytes(key, safe=_PRINTABLE)


def key_of(item_id: str) -> bytes:
    """Return the key whose id this is."""
    return unquote_to_bytes(item_id)


def secret(path: str, value: bytes) -> Outcome:
    """Return what becomes of *value*, kept under *path*: ``hosts/10.0.0.7``."""
    name = names.SECRETS + path
    try:
        names.check(name)
    except InvalidName as error:
        return Outcome(fault=f"its name cannot be one here: {error}")
    if names.is_container(name):
        return Outcome(fault="its name ends in a slash, as those of containers do")
    if names.container_of(name) == names.SECRETS:
        return Outcome(fault="it lies in no container")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Outcome(fault="its value is no UTF-8 text")
    if not text:
        return Outcome(fault="its value is empty, which no secret is")
    model = _SECRET_MODELS.get(names.container_of(name))
    outcome = Outcome((Record(name, Secret(text)),)) if model is None else _model(model, name, text)
    if any(_is_too_large(record.value.reveal()) for record in outcome.records):
        return Outcome(fault=f"its value is over the limit of a secret: {MAX_SECRET} bytes")
    return outcome


def _is_too_large(text: str) -> bool:
    """Whether *text* is over the limit, which octets in base64 have before they are encoded."""
    size = len(text) if text.isascii() else len(text.encode())
    if size <= MAX_SECRET:
        return False
    if size > -(-MAX_SECRET // 3) * 4:
        return True
    try:
        return len(base64.b64decode(text, validate=True)) > MAX_SECRET
    except ValueError:
        return True


def _model(model: type[SecretModel], name: str, text: str) -> Outcome:
    """Return what becomes of a value in the container of *model*: as it is, if the model reads it so."""
    try:
        members = strict_json.decode(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):  # b64decode also refuses what is not ASCII
        members = None
    if not isinstance(members, dict):
        return Outcome(fault=f"its value is no {model.__name__}: JSON in base64 is expected in this container")
    known = _mended(model, {field: members[field] for field in members if field in model.__struct_fields__})
    try:
        record = model.from_dict(known)
    except ValidationError as error:
        why = "; ".join(f"{fault.field} {fault.reason}" for fault in error.faults)
        return Outcome(fault=f"its value is no valid {model.__name__}: {why}")
    if record.record_name != name:
        return Outcome(fault=f"its {model.primary_key} is not the one of its name")
    notes = tuple(f"the field {field!a} stays behind" for field in sorted(members.keys() - known.keys()))
    if known == members:
        return Outcome((Record(name, Secret(text)),))
    return Outcome((Record.of(record),), notes=notes)


def _mended(model: type[SecretModel], members: dict[str, object]) -> dict[str, object]:
    """Return *members* with an SSH key that stands there in the clear in base64, as the model has it."""
    key = members.get("ssh_priv_key")
    if model is not HostCreds or not isinstance(key, str) or not key.startswith(_PEM):
        return members
    return members | {"ssh_priv_key": base64.b64encode(key.encode(errors="surrogatepass")).decode()}
