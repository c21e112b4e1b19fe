"""What client and service say to each other of rules, below ``/access/rules``.

    /access/rules/                    GET (``?after=&limit=``)
    /access/rules/<name>              GET, PUT, DELETE (``If-Match``, ``If-None-Match: *``)
    /access/rules/-/document          GET, PUT (``If-Match``): all of them, in YAML
    /access/rules/-/diff              POST a document
    /access/rules/-/try?since=7d      POST a document
    /access/rules/-/explain           POST
    /access/rules/-/who-can           POST
    /access/rules/-/what-can          POST
    /access/rules/-/cases/<request>   GET

No rule is called ``-``.
"""

from typing import Final, Literal

import msgspec

from strongroom.storage_service.wire import ACCESS_PATH, MAX_BODY

RULES_PATH: Final = ACCESS_PATH + "/rules"
QUESTIONS_PATH: Final = RULES_PATH + "/-"
MAX_RULE_BODY: Final = 512 * 1024
MAX_DOCUMENT_BODY: Final = MAX_BODY
MAX_QUESTION_BODY: Final = 4 * 1024
MAX_RULES_PAGE: Final = 1000
YAML: Final = "application/yaml"

Said = Literal["allow", "deny"]


class RuleBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule, as it is put."""

    effect: Said
    subjects: list[str]
    actions: list[str]
    names: list[str]
    networks: list[str] = []
    expires: str | None = None
    note: str = ""


class RuleInfo(msgspec.Struct, kw_only=True):
    """A rule, as it is told; *damaged*: its record cannot be read, and nothing is known of it but its name."""

    name: str
    effect: Said = "deny"
    subjects: list[str] = []
    actions: list[str] = []
    names: list[str] = []
    networks: list[str] = []
    expires: str | None = None
    note: str = ""
    created: str = ""
    created_by: str = ""
    etag: str = ""
    damaged: bool = False


class RulePage(msgspec.Struct, kw_only=True):
    """Some of them, by name."""

    rules: list[RuleInfo]
    more: bool = False


class RuleChange(msgspec.Struct, kw_only=True):
    """A member of a rule that is another: null, a text or a list of texts."""

    member: str
    before: str | list[str] | None = None
    after: str | list[str] | None = None


class RulesDiff(msgspec.Struct, kw_only=True):
    """What a document changes in the rules that go by *etag*; of what was imported, in those that went before."""

    added: list[str]
    removed: list[str]
    changed: dict[str, list[RuleChange]]
    etag: str


class Question(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of explain: whether *principal* may do *action* to *name*; no principal: whoever asks."""

    action: str
    name: str
    principal: str | None = None
    address: str | None = None


class WhoCanQuestion(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of who-can."""

    action: str
    name: str


class WhatCanQuestion(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of what-can; no principal: whoever asks."""

    principal: str | None = None


class Opinion(msgspec.Struct, kw_only=True):
    """What one of those who decide says: true, false, or null where it has no say."""

    decider: str
    says: bool | None


class MatchInfo(msgspec.Struct, kw_only=True):
    """A rule that speaks of an act, and what of it does."""

    rule: str
    effect: Said
    subjects: list[str]
    rights: list[str]
    names: list[str]


class NearInfo(msgspec.Struct, kw_only=True):
    """A rule that would speak of it but for its *lacks*: subject, right, name, network or expiry."""

    rule: str
    effect: Said
    lacks: str


class UndoInfo(msgspec.Struct, kw_only=True):
    """A way in which a rule would deny no more: it is without these of its *member*, or, with none, removed."""

    member: str | None = None
    without: list[str] = []


class RemedyInfo(msgspec.Struct, kw_only=True):
    """The smallest change that would allow: each of *denies* undone in one of its ways, and one of *add* and *join*."""

    possible: bool
    denies: dict[str, list[UndoInfo]] = {}
    add: RuleBody | None = None
    join: list[str] = []


class ExplanationInfo(msgspec.Struct, kw_only=True):
    """Why somebody may do something, or may not; *whole*: by all rules, else by those that speak of him."""

    principal: str
    groups: list[str]
    address: str | None
    rights: list[str]
    name: str
    allowed: bool
    deciders: list[Opinion]
    missing: list[str]
    matched: list[MatchInfo]
    nearly: list[NearInfo]
    remedy: RemedyInfo | None
    whole: bool


class WhoInfo(msgspec.Struct, kw_only=True):
    """Somebody who can: by these rules (an API key by none, but by its reach), from *networks* alone, not *barred*."""

    principal: str
    rules: list[str]
    networks: list[str]
    barred: list[str]


class CanInfo(msgspec.Struct, kw_only=True):
    """What can be done to the names of a pattern."""

    names: str
    rights: list[str]
    networks: list[str]
    expires: str | None


class ReachInfo(msgspec.Struct, kw_only=True):
    """All that somebody can do by rules: what of *allowed* is not *denied*."""

    principal: str
    groups: list[str]
    allowed: list[CanInfo]
    denied: list[CanInfo]


class FlipInfo(msgspec.Struct, kw_only=True):
    """A decision on record that would be another, how often, and by which of the proposed rules."""

    principal: str
    groups: list[str]
    address: str | None
    rights: list[str]
    name: str
    times: int
    first: str
    last: str
    rules: list[str]


class TrialInfo(msgspec.Struct, kw_only=True):
    """What proposed rules would change in the decisions on record.

    *more* would be others and are not told, because so many are; not *complete*: not all were read that were asked for.
    """

    tried: int
    denied: list[FlipInfo]
    allowed: list[FlipInfo]
    more: int
    complete: bool


class CaseInfo(msgspec.Struct, kw_only=True):
    """A decision on record, with what it was made of, and why it would be so now; null: whoever it was is nobody."""

    time: str
    request: str
    principal: str
    action: str
    name: str
    decision: str
    address: str | None
    groups: list[str]
    credential: str | None
    rights: list[str]
    rules: list[str]
    revision: int
    now: ExplanationInfo | None
