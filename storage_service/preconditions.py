"""What a write expects to find: ``If-Match``, ``If-None-Match`` and entity tags as revisions (RFC 9110 sec. 13)."""

import re

from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import ABSENT, PRESENT
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.head import Head

_ETAG = re.compile(r'"([1-9][0-9]{0,18})"', re.ASCII)


def expected_revision(head: Head) -> int:
    """Return the revision that If-Match asks for: ABSENT without one or for `wire.NEW`, PRESENT for ``*``.

    Raises:
        Invalid: it is no tag of ours, or contradicts If-None-Match.
    """
    if head.if_match is None:
        if head.if_none_match not in (None, "*"):
            raise Invalid("If-None-Match on a write is *")
        return ABSENT
    if head.if_none_match is not None:
        raise Invalid("If-Match and If-None-Match contradict each other")
    return ABSENT if head.if_match == wire.NEW else revision_of(head.if_match)


def revision_of(etag: str) -> int:
    """Return the revision that *etag* stands for: PRESENT for ``*``.

    Raises:
        Invalid: it is no tag of ours.
    """
    if etag == "*":
        return PRESENT
    tag = _ETAG.fullmatch(etag)
    if tag is None:
        raise Invalid("what a record is expected at is an entity tag of ours, or *")
    return int(tag[1])
