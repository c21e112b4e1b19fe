"""What Custodia keeps, as Strongroom keeps it.

    keys/hosts/10.0.0.7     secrets/hosts/10.0.0.7      the value of the simple message that Custodia would answer

Custodia keeps text: octets that were PUT lie there in base64, and Strongroom keeps them so too. In the containers of
secret models every value must be such a model's, as CPD-101's handler stored it: its JSON, in base64.
"""

import base64
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from strongroom.migration.records import Item, Record
from strongroom.migration.sources import making
from strongroom.migration.sources.files import Unfit
from strongroom.models import HostCreds, names, strict_json
from strongroom.models.steps import Step

EMPTY_CONTAINER: Final = "an empty container: it stays behind, and Strongroom makes one when a secret is put into it"

_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Outcome(NamedTuple):
    """What becomes of one value: a record, a fault, or nothing but notes."""

    records: tuple[Record, ...] = ()
    fault: str = ""
    notes: tuple[str | Step, ...] = ()

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
        text, notes = _mended(name, value.decode())
        return Outcome((making.secret(name, text),), notes=notes)
    except UnicodeDecodeError:
        return Outcome(fault="its value is not UTF-8 text")
    except Unfit as reason:
        return Outcome(fault=str(reason))


def _mended(name: str, text: str) -> tuple[str, tuple[str, ...]]:
    """Return the credentials of a host without what they do not have here, and what that was; all else as it is."""
    members = _members(text) if names.container_of(name) == HostCreds.prefix() else None
    if members is None:
        return text, ()
    known = {field: members[field] for field in members if field in HostCreds.__struct_fields__}
    key = known.get("ssh_priv_key")
    if isinstance(key, str) and key:
        known["ssh_priv_key"] = making.key_text(key)
    if known == members:
        return text, ()
    notes = tuple(making.left_behind("fields", members.keys() - known.keys()))
    return making.of(HostCreds, known).value.reveal(), notes


def _members(text: str) -> dict[str, object] | None:
    try:
        members = strict_json.decode(base64.b64decode(text, validate=True))
    except ValueError:
        return None
    return members if isinstance(members, dict) else None
