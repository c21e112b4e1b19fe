"""The operations on rules, in the manner of ``operations``.

A rule is `Rule` of ``strongroom.models.access``. All rules together are a document in YAML, which is text here.
"""

from typing import NamedTuple

import msgspec

from strongroom.models.access import Rule, check_name
from strongroom.models.errors import InvalidName
from strongroom.storage_service import wire
from strongroom.storage_service.client.operations import decode, segment
from strongroom.storage_service.client.retries import Call, Effect, Operation
from strongroom.storage_service.wire import rules as rules_wire
from strongroom.storage_service.wire.etags import NEW
from strongroom.storage_service.wire.rules import (
    MAX_RULES_PAGE,
    QUESTIONS_PATH,
    RULES_PATH,
    YAML,
    CaseInfo,
    ExplanationInfo,
    ReachInfo,
    RuleInfo,
    RulesDiff,
    TrialInfo,
    WhoInfo,
)


class RulePage(NamedTuple):
    """A part of a listing; *after* is where the next one begins, None at the end."""

    rules: list[RuleInfo]
    after: str | None


class RulesDocument(NamedTuple):
    """All rules as one text, and the tag that they go by together."""

    text: str
    etag: str


def list_rules(after: str = "", *, limit: int = MAX_RULES_PAGE) -> Operation[RulePage]:
    """Return the rules behind the name *after*, *limit* of them at most."""
    path = f"{RULES_PATH}/?limit={limit}&after={check_name(after) if after else ''}"
    said = decode((yield Call("GET", path, Effect.READ)), rules_wire.RulePage)
    return RulePage(said.rules, said.rules[-1].name if said.more and said.rules else None)


def get_rule(rule: str) -> Operation[RuleInfo]:
    """Return a rule.

    Raises:
        NotFound: there is none.
    """
    return decode((yield Call("GET", _path(rule), Effect.READ)), RuleInfo)


def put_rule(name: str, rule: Rule, *, etag: str | None = None) -> Operation[str]:
    """Make a rule, or put it in the place of the one of its name; return its tag.

    Args:
        name: what it is called.
        rule: what it says.
        etag: the tag of the rule that it replaces; ``*``: there must be one; `NEW`: there must not; None: whatever is.

    Raises:
        Invalid: the name or the rule cannot be so.
        Exists, Changed: what was expected is not so.
        InUse: no administrator could change the rules any more.
    """
    said = rules_wire.RuleBody(
        effect=rule.effect,
        subjects=[*rule.subjects],
        actions=[str(action) for action in rule.actions],
        names=[*rule.names],
        networks=[*rule.networks],
        expires=rule.expires,
        note=rule.note,
    )
    headers = {"Content-Type": wire.JSON, **_expected(etag)}
    answer = yield Call("PUT", _path(name), Effect.WRITE, msgspec.json.encode(said), headers)
    return answer.headers.get("etag", "")


def remove_rule(rule: str, *, etag: str | None = None) -> Operation[None]:
    """Remove a rule.

    Raises:
        NotFound: there is none.
        Changed: it is not the one of that tag.
        InUse: no administrator could change the rules any more.
    """
    yield Call("DELETE", _path(rule), Effect.WRITE, headers=_expected(etag))


def export_rules() -> Operation[RulesDocument]:
    """Return all rules as one document."""
    answer = yield Call("GET", f"{QUESTIONS_PATH}/document", Effect.READ)
    return RulesDocument(answer.body.decode(), answer.headers.get("etag", ""))


def import_rules(document: str, *, etag: str | None = None) -> Operation[RulesDiff]:
    """Put the rules of a document in the place of all that there are, and return what that changed.

    Args:
        document: the text; it is applied whole or not at all.
        etag: the tag that the rules must go by now (`export_rules`, `diff_rules`); None: whatever they are.

    Raises:
        Invalid: it is no document of rules; with all that is wrong.
        Changed: the rules are others.
        InUse: no administrator could change the rules any more.
    """
    headers = {"Content-Type": YAML, **_expected(etag)}
    answer = yield Call("PUT", f"{QUESTIONS_PATH}/document", Effect.WRITE, document.encode(), headers)
    return decode(answer, RulesDiff)


def diff_rules(document: str) -> Operation[RulesDiff]:
    """Return what a document would change.

    Raises:
        Invalid: it is no document of rules; with all that is wrong.
    """
    return decode((yield _document("diff", document)), RulesDiff)


def try_rules(document: str, since: str = "7d") -> Operation[TrialInfo]:
    """Return what the rules of a document would have changed in the decisions that are on record *since* then.

    Raises:
        Invalid: it is no document of rules; or *since* is too long.
        Busy: another is being tried.
    """
    if not since.isalnum():
        raise InvalidName("a duration is numbers with Y, M, w, d, h, m, s or ms, as in 1h30m")
    return decode((yield _document(f"try?since={since}", document)), TrialInfo)


def explain(
    action: str, name: str, *, principal: str | None = None, address: str | None = None
) -> Operation[ExplanationInfo]:
    """Return why a principal, or oneself, may do *action* to *name*, or may not.

    Args:
        action: an action (``get``, ``list``, ``put``, ``create``, ``modify``, ``delete``) or a right (``lock``).
        name: to what.
        principal: ``user:ann``; None: oneself.
        address: from where on the network.

    Raises:
        NotFound: there is no such principal.
    """
    said = rules_wire.Question(action=action, name=name, principal=principal, address=address)
    return decode((yield _question("explain", said)), ExplanationInfo)


def who_can(action: str, name: str) -> Operation[list[WhoInfo]]:
    """Return who can do *action* to *name*."""
    return decode((yield _question("who-can", rules_wire.WhoCanQuestion(action=action, name=name))), list[WhoInfo])


def what_can(principal: str | None = None) -> Operation[ReachInfo]:
    """Return what a principal, or oneself, can do by rules.

    Raises:
        NotFound: there is no such principal.
    """
    return decode((yield _question("what-can", rules_wire.WhatCanQuestion(principal=principal))), ReachInfo)


def get_cases(request_id: str) -> Operation[list[CaseInfo]]:
    """Return what was decided in the request of that id, and why; of others' requests, to who may read that.

    Raises:
        NotFound: nothing is on record of it that one may see.
    """
    return decode((yield Call("GET", f"{QUESTIONS_PATH}/cases/{segment(request_id)}", Effect.READ)), list[CaseInfo])


def _path(rule: str) -> str:
    return f"{RULES_PATH}/{check_name(rule)}"


def _expected(etag: str | None) -> dict[str, str]:
    if etag is None:
        return {}
    return {"If-None-Match": "*"} if etag == NEW else {"If-Match": etag}


def _document(path: str, document: str) -> Call:
    return Call("POST", f"{QUESTIONS_PATH}/{path}", Effect.READ, document.encode(), {"Content-Type": YAML})


def _question(path: str, said: msgspec.Struct) -> Call:
    return Call("POST", f"{QUESTIONS_PATH}/{path}", Effect.READ, msgspec.json.encode(said), {"Content-Type": wire.JSON})
