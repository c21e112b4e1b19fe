"""Entity tags and revisions, and what a write expects to find: ``If-Match``, ``If-None-Match`` (RFC 9110, sec. 13).

A store gives a record a new revision, a positive integer, each time it is written; the tag of the record is that
number in quotes. Two more numbers say what else may be expected of a name.
"""

import re
from typing import Final

from strongroom.storage_service.errors import Changed, Invalid

ABSENT: Final = 0
"""An expected revision: the name must not exist."""
PRESENT: Final = -1
"""An expected revision: the name must exist, at whatever revision."""

_ETAG: Final = re.compile(r'"([1-9][0-9]{0,18})"', re.ASCII)


def etag_of(revision: int) -> str:
    """Return the entity tag of a record at *revision*."""
    return f'"{revision}"'


NEW: Final = etag_of(ABSENT)
"""The tag of a record that does not exist yet: who saves with it makes the record, or is told that it is there."""


def revision_of(etag: str) -> int:
    """Return the revision that *etag* stands for: ABSENT for `NEW`, PRESENT for ``*``.

    Raises:
        Invalid: it is no tag of ours.
    """
    if etag == "*":
        return PRESENT
    if etag == NEW:
        return ABSENT
    tag = _ETAG.fullmatch(etag)
    if tag is None:
        raise Invalid("an expected revision must be an entity tag of this service, or *")
    return int(tag[1])


def expected_revision(if_match: str | None, if_none_match: str | None) -> int:
    """Return the revision that a write by these two fields is to replace; without ``If-Match`` it makes a record.

    Raises:
        Invalid: it is no tag of ours.
        Changed: the two contradict each other, so no record fulfils them (RFC 9110 sec. 13.2.2).
    """
    if if_none_match not in (None, "*"):
        raise Invalid("If-None-Match on a write must be *")
    if if_match is None:
        return ABSENT
    revision = revision_of(if_match)
    if if_none_match is not None:
        raise Changed("If-Match and If-None-Match contradict each other")
    return revision
