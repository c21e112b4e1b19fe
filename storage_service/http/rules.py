"""Rules on the socket, below ``/access/rules``: one class for each path, which only translates."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import falcon
import falcon.asgi
import msgspec

from strongroom.models.access import Right, Rule
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.durations import duration
from strongroom.storage_service.access.explain import Add, Can, Flip, Join, Narrow, Remedy
from strongroom.storage_service.access.rule_document import canonical
from strongroom.storage_service.errors import Changed, Invalid
from strongroom.storage_service.http.answering import Request, Response, answer, body, caller
from strongroom.storage_service.http.large_bodies import LargeBodies
from strongroom.storage_service.services.rules import Case, Compared, Explained, KnownRule, RuleService
from strongroom.storage_service.wire import NO_STORE
from strongroom.storage_service.wire.rules import (
    MAX_DOCUMENT_BODY,
    MAX_QUESTION_BODY,
    MAX_RULE_BODY,
    MAX_RULES_PAGE,
    QUESTIONS_PATH,
    RULES_PATH,
    YAML,
    CanInfo,
    CaseInfo,
    ExplanationInfo,
    FlipInfo,
    MatchInfo,
    NearInfo,
    Opinion,
    Question,
    ReachInfo,
    RemedyInfo,
    RuleBody,
    RuleChange,
    RuleInfo,
    RulePage,
    RulesDiff,
    TrialInfo,
    UndoInfo,
    WhatCanQuestion,
    WhoCanQuestion,
    WhoInfo,
)


def add_routes(app: falcon.asgi.App[Any, Any], rules: RuleService, bodies: LargeBodies) -> None:
    """Give *app* every resource of this page."""
    for path, resource in (
        (RULES_PATH + "/", Rules(rules)),
        (RULES_PATH + "/{name}", OneRule(rules)),
        (QUESTIONS_PATH + "/document", Document(rules, bodies)),
        (QUESTIONS_PATH + "/diff", Diff(rules, bodies)),
        (QUESTIONS_PATH + "/try", Try(rules, bodies)),
        (QUESTIONS_PATH + "/explain", Explain(rules)),
        (QUESTIONS_PATH + "/who-can", WhoCan(rules)),
        (QUESTIONS_PATH + "/what-can", WhatCan(rules)),
        (QUESTIONS_PATH + "/cases/{request}", Cases(rules)),
    ):
        app.add_route(path, resource)


def conditional(path: str, method: bytes) -> bool:
    """Whether *method* looks at conditions at *path*: where a rule, or the document of all, is written or removed."""
    return path.startswith(RULES_PATH + "/") and method in (b"PUT", b"DELETE")


class _Resource:
    """A resource, and the service behind it."""

    def __init__(self, rules: RuleService) -> None:
        self._rules = rules


class _OfDocuments(_Resource):
    """A resource to which documents are sent, and the turns of large ones."""

    def __init__(self, rules: RuleService, bodies: LargeBodies) -> None:
        super().__init__(rules)
        self._bodies = bodies


class Rules(_Resource):
    """All rules."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell a page of them."""
        limit = req.get_param_as_int("limit", default=MAX_RULES_PAGE)
        if not 1 <= limit <= MAX_RULES_PAGE:
            raise Invalid(f"limit is 1 to {MAX_RULES_PAGE}")
        page = await self._rules.page(caller(req), req.get_param("after", default=""), limit)
        answer(req, resp, RulePage(rules=[_info(each) for each in page.rules], more=page.more))


class OneRule(_Resource):
    """One rule."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Tell it."""
        found = await self._rules.get(caller(req), name)
        if found.tag:
            resp.set_header("ETag", _quoted(found.tag))
        answer(req, resp, _info(found))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it, or put it in the place of what it says."""
        await self._rules.expect(caller(req), Action.PUT, name)
        said = await body(req, RuleBody, MAX_RULE_BODY)
        made = await self._rules.put(caller(req), name, _rule(said), _expected(req))
        resp.status = falcon.HTTP_201 if made.created else falcon.HTTP_204
        resp.set_header("ETag", _quoted(made.tag))
        answer(req, resp, None)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it."""
        await self._rules.remove(caller(req), name, _expected(req))
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class Document(_OfDocuments):
    """All rules as one document."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it."""
        document = await self._rules.export(caller(req))
        answer(req, resp, None)
        resp.set_header(*(each.decode() for each in NO_STORE))
        resp.set_header("ETag", _quoted(document.tag))
        resp.content_type = YAML
        resp.data = document.text.encode()

    async def on_put(self, req: Request, resp: Response) -> None:
        """Put it in the place of all that there are, or do nothing."""
        await self._rules.expect(caller(req), Action.PUT)
        async with self._bodies.of(req) as sent:
            text = _text(await sent.content(MAX_DOCUMENT_BODY))
            answer(req, resp, _diff(await self._rules.replace_all(caller(req), text, _expected(req))))


class Diff(_OfDocuments):
    """What a document would change."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Tell it."""
        await self._rules.expect(caller(req), Action.GET)
        async with self._bodies.of(req) as sent:
            text = _text(await sent.content(MAX_DOCUMENT_BODY))
            answer(req, resp, _diff(await self._rules.diff(caller(req), text)))


class Try(_OfDocuments):
    """What a document would have changed."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Tell it."""
        await self._rules.expect(caller(req), Action.GET)
        since = _duration(req.get_param("since", default="7d"))
        async with self._bodies.of(req) as sent:
            text = _text(await sent.content(MAX_DOCUMENT_BODY))
            trial, complete = await self._rules.try_rules(caller(req), text, since)
            answer(
                req,
                resp,
                TrialInfo(
                    tried=trial.tried,
                    denied=[_flip(each) for each in trial.denied],
                    allowed=[_flip(each) for each in trial.allowed],
                    more=trial.more,
                    complete=complete,
                ),
            )


class Explain(_Resource):
    """Why somebody may do something, or may not."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Tell it."""
        said = await body(req, Question, MAX_QUESTION_BODY)
        found = await self._rules.explain(caller(req), said.action, said.name, said.principal, said.address)
        answer(req, resp, _explanation(found))


class WhoCan(_Resource):
    """Who can do something."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Tell them."""
        await self._rules.expect(caller(req), Action.GET)
        said = await body(req, WhoCanQuestion, MAX_QUESTION_BODY)
        found = await self._rules.who_can(caller(req), said.action, said.name)
        told = [
            WhoInfo(principal=each.id, rules=[*each.allows], networks=[*each.networks], barred=[*each.barred])
            for each in found
        ]
        answer(req, resp, told)


class WhatCan(_Resource):
    """What somebody can do."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Tell it."""
        said = await body(req, WhatCanQuestion, MAX_QUESTION_BODY)
        who, reach = await self._rules.what_can(caller(req), said.principal)
        told = ReachInfo(
            principal=who.id,
            groups=sorted(who.groups),
            allowed=[_can(each) for each in reach.allowed],
            denied=[_can(each) for each in reach.denied],
        )
        answer(req, resp, told)


class Cases(_Resource):
    """What was decided in a request."""

    async def on_get(self, req: Request, resp: Response, request: str) -> None:
        """Tell it."""
        answer(req, resp, [_case(each) for each in await self._rules.cases(caller(req), request)])


def _rule(said: RuleBody) -> Rule:
    """Return the rule that is said.

    Raises:
        Invalid: its actions are not such.
    """
    if not set(said.actions) <= set(Right):
        raise Invalid(f"actions are {', '.join(Right)}", (("actions", "are not such"),))
    return Rule(
        effect=said.effect,
        subjects=tuple(said.subjects),
        actions=tuple(map(Right, said.actions)),
        names=tuple(said.names),
        networks=tuple(said.networks),
        expires=said.expires,
        note=said.note,
    )


def _body(rule: Rule) -> RuleBody:
    return RuleBody(
        effect=rule.effect,
        subjects=[*rule.subjects],
        actions=_texts(rule.actions),
        names=[*rule.names],
        networks=[*rule.networks],
        expires=rule.expires,
        note=rule.note,
    )


def _info(known: KnownRule) -> RuleInfo:
    if known.rule is None:
        return RuleInfo(name=known.name, damaged=True)
    said = msgspec.to_builtins(_body(canonical(known.rule)))
    made = known.rule.created, known.rule.created_by
    return RuleInfo(name=known.name, **said, created=made[0], created_by=made[1], etag=_quoted(known.tag))


def _diff(compared: Compared) -> RulesDiff:
    changed = {
        name: [RuleChange(member=each.member, before=_side(each.before), after=_side(each.after)) for each in members]
        for name, members in compared.difference.changed.items()
    }
    return RulesDiff(
        added=[*compared.difference.added],
        removed=[*compared.difference.removed],
        changed=changed,
        etag=_quoted(compared.tag),
    )


def _side(said: str | tuple[str, ...] | None) -> str | list[str] | None:
    return [*said] if isinstance(said, tuple) else said


def _explanation(found: Explained) -> ExplanationInfo:
    said = found.rules
    return ExplanationInfo(
        principal=found.principal,
        groups=[*found.groups],
        address=found.address,
        rights=_texts(found.rights),
        name=found.name,
        allowed=found.allowed,
        deciders=[Opinion(decider=kind, says=opinion) for kind, opinion in found.deciders],
        missing=_texts(said.missing),
        matched=[
            MatchInfo(
                rule=each.rule,
                effect=each.effect,
                subjects=[*each.subjects],
                rights=_texts(each.rights),
                names=[*each.names],
            )
            for each in said.matched
        ],
        nearly=[NearInfo(rule=each.rule, effect=each.effect, lacks=str(each.lacks)) for each in said.nearly],
        remedy=None if said.remedy is None else _remedy(said.remedy),
        whole=found.whole,
    )


def _remedy(remedy: Remedy) -> RemedyInfo:
    denies = {
        rule: [
            UndoInfo(member=way.member, without=[*way.without]) if isinstance(way, Narrow) else UndoInfo()
            for way in ways
        ]
        for rule, ways in remedy.denies.items()
    }
    add = next((each.rule for each in remedy.grants if isinstance(each, Add)), None)
    join = [each.group for each in remedy.grants if isinstance(each, Join)]
    return RemedyInfo(possible=remedy.possible, denies=denies, add=None if add is None else _body(add), join=join)


def _can(can: Can) -> CanInfo:
    return CanInfo(names=can.pattern, rights=_texts(can.rights), networks=[*can.networks], expires=can.expires)


def _flip(flip: Flip) -> FlipInfo:
    first = flip.decision
    return FlipInfo(
        principal=first.id,
        groups=sorted(first.groups),
        address=first.address,
        rights=_texts(first.rights),
        name=first.name,
        times=flip.times,
        first=first.moment.isoformat().replace("+00:00", "Z"),
        last=flip.last.isoformat().replace("+00:00", "Z"),
        rules=[*flip.rules],
    )


def _case(case: Case) -> CaseInfo:
    line, decided = case.line, case.line.decided
    assert decided is not None  # noqa: S101  # others are no cases
    return CaseInfo(
        time=line.time,
        request=line.request,
        principal=line.principal,
        action=line.action,
        name=line.name,
        decision=line.decision,
        address=line.from_,
        groups=decided.groups,
        credential=decided.credential,
        rights=decided.rights,
        rules=decided.rules,
        revision=decided.revision,
        now=None if case.now is None else _explanation(case.now),
    )


def _texts(said: Sequence[str]) -> list[str]:
    return [str(each) for each in said]


def _text(sent: bytes) -> str:
    try:
        return sent.decode()
    except UnicodeDecodeError:
        pass
    raise Invalid("a document of rules is text in UTF-8")


def _duration(text: str) -> timedelta:
    try:
        return duration(text)
    except ValueError as error:
        raise Invalid(str(error), (("since", "is not a duration"),)) from None


def _quoted(tag: str) -> str:
    return f'"{tag}"'


def _expected(req: Request) -> str | None:
    """Return what a write is to replace: the tag, ``*``, "" for nothing; None for whatever it is.

    Raises:
        Invalid: it is no tag of ours.
        Changed: the two fields contradict each other.
    """
    if_match, if_none_match = req.get_header("If-Match"), req.get_header("If-None-Match")
    if if_none_match not in (None, "*"):
        raise Invalid("If-None-Match on a write must be *")
    if if_match is not None and if_none_match is not None:
        raise Changed("If-Match and If-None-Match contradict each other")
    if if_none_match is not None:
        return ""
    if if_match in (None, "*"):
        return if_match
    tag = if_match[1:-1]
    if if_match != _quoted(tag) or len(tag) != 32 or not tag.isalnum():
        raise Invalid("what is expected must be an entity tag of this service, or *")
    return tag
