"""What the service answers below ``/api/v0/auth`` and ``/api/v0/access``: the proxy passes it on unread."""

from typing import Any, Final

from strongroom.http_proxy.operations import OPEN, Json, answer, at, body, list_of, operation, ref, schema
from strongroom.storage_service.wire import MAX_NAMES_PAGE
from strongroom.storage_service.wire.access import ACCESS_PATH, SETUP_PATH
from strongroom.storage_service.wire.login import CHALLENGE_PATH, LOGIN_PATH, TOKEN_PATH, WHOAMI_PATH
from strongroom.storage_service.wire.rules import QUESTIONS_PATH, RULES_PATH, YAML

DURATION: Final = "^(?=.*[1-9])" + "".join(f"([0-9]{{1,6}}{unit})?" for unit in "YMwdhms") + "([0-9]{1,6}ms)?$"
ACCESS_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
PRINCIPAL_NAME: Final = "^(?![0-9]+$)" + ACCESS_NAME.removeprefix("^")
_SEGMENT: Final = r"^\.*[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*$"

ACCESS_TAGS: Final = {
    "auth": "Logging in: a challenge, what answers it, and the token that it is worth.",
    "users": "People, and what they prove themselves with.",
    "services": "Programs, and what they prove themselves with.",
    "groups": "Users and services together.",
    "rules": "Who may do what to which names, and why.",
    "setup": "The first credential of who has a code.",
}

_DONE: Final = {204: answer("Done.")}
_DOCUMENT: Final = schema("RulesDocument")
_YAML_BODY: Final[Json] = {"required": True, "content": {YAML: {"schema": _DOCUMENT}}}
_PAGE: Final = [ref("parameters", "pageLimit"), ref("parameters", "pageAfter")]
_TAG: Final = [ref("parameters", "ruleMatch"), ref("parameters", "ifNoneMatch")]
_LATER: Final = [ref("parameters", "later")]


def _parameter(name: str, text: str, where: str = "path", **told: Any) -> Json:
    return {"name": name, "in": where, "required": where == "path", "description": text, "schema": told}


ACCESS_PARAMETERS: Final[dict[str, Json]] = {
    "principalName": _parameter("name", "What it is called, without its kind.", type="string", pattern=PRINCIPAL_NAME),
    "groupName": _parameter("name", "What the group is called.", type="string", pattern=ACCESS_NAME),
    "ruleName": _parameter("name", "What the rule is called.", type="string", pattern=ACCESS_NAME),
    "credential": _parameter("credential", "A credential's id, or its name.", type="string", pattern=_SEGMENT),
    "member": _parameter("member", "A principal with its kind: user:ann.", type="string", pattern=_SEGMENT),
    "jti": _parameter("jti", "The id of a token, as whoami tells it.", type="string", pattern=_SEGMENT),
    "request": _parameter(
        "request", "The id of a request, as its answer had it.", type="string", pattern="^[A-Za-z0-9_-]{8,64}$"
    ),
    "later": _parameter(
        "in", "In a while, as in 1h30m; without it, at once.", "query", type="string", pattern=DURATION
    ),
    "since": _parameter("since", "How far back; 7d without it.", "query", type="string", pattern=DURATION),
    "pageLimit": _parameter(
        "limit",
        f"How many are told, at most; {MAX_NAMES_PAGE:,} without it.",
        "query",
        type="integer",
        minimum=1,
        maximum=MAX_NAMES_PAGE,
    ),
    "pageAfter": _parameter("after", "The name behind which this page begins.", "query", type="string"),
    "ruleMatch": _parameter(
        "If-Match",
        "The ETag that it must be at, or * for any.",
        "header",
        anyOf=[{"type": "string", "enum": ["*"]}, {"type": "string", "pattern": '^"[0-9a-f]{32}"$'}],
    ),
}

AUTH: Final[dict[str, Json]] = {
    CHALLENGE_PATH: at(
        post=operation(
            "Ask for a challenge; whether there is somebody of that name is not told",
            {200: answer("What is to be signed, or decrypted.", schema("Challenge"))},
            body(schema("AskedChallenge")),
            id="askChallenge",
            **OPEN,
        )
    ),
    LOGIN_PATH: at(
        post=operation(
            "Log in with the answer to a challenge",
            {201: answer("The token, this once.", schema("Token"))},
            body(schema("Answer")),
            id="logIn",
            problems=[403],
            **OPEN,
        )
    ),
    WHOAMI_PATH: at(
        get=operation(
            "Whom the service takes the caller for",
            {200: answer("That, and its reach.", schema("WhoAmI"))},
            id="whoami",
        )
    ),
    TOKEN_PATH: at(
        delete=operation("End the token that is shown", _DONE, id="logOut", security=[{"bearer": []}]),
    ),
    TOKEN_PATH + "/{jti}": at(
        "jti", delete=operation("End a token", _DONE, id="endToken", problems=[404], parameters=_LATER)
    ),
}


def _principals(folder: str, one: str, all_of: str) -> dict[str, Json]:
    """Return the paths of one kind of principal."""
    path = f"{ACCESS_PATH}/{folder}/"
    at_name = path + "{name}"
    return {
        path: at(
            get=operation(
                f"All {folder} that the caller may see, by name",
                {200: answer("A page of them.", schema("PrincipalPage"))},
                id=f"list{all_of}",
                problems=[413],
                parameters=_PAGE,
            )
        ),
        at_name: at(
            "principalName",
            get=operation(
                f"One of the {folder}, without anything that opens",
                {200: answer("Its record.", schema("PrincipalInfo"))},
                id=f"get{one}",
                problems=[404],
            ),
            put=operation(
                f"Make one of the {folder}; without credentials it gets a code",
                {201: answer("Made; its code stands here alone.", schema("AddedPrincipal"))},
                body(schema("NewPrincipal")),
                id=f"add{one}",
                problems=[409],
            ),
            delete=operation(
                "End it, at once and everywhere; its name is never given again",
                _DONE,
                id=f"remove{one}",
                problems=[404, 409],
            ),
        ),
        at_name + "/disabled": at(
            "principalName",
            put=operation("Shut it out", _DONE, id=f"disable{one}", problems=[404, 409]),
            delete=operation("Let it in again", _DONE, id=f"enable{one}", problems=[404, 409]),
        ),
        at_name + "/tokens": at(
            "principalName",
            delete=operation(
                "End all its tokens",
                _DONE,
                id=f"end{one}Tokens",
                problems=[404],
                parameters=_LATER,
            ),
        ),
        at_name + "/credentials/": at(
            "principalName",
            post=operation(
                "Give it one more credential",
                {201: answer("What is public of it.", schema("CredentialInfo"))},
                body(schema("NewCredential")),
                id=f"add{one}Credential",
                problems=[404, 409],
            ),
        ),
        at_name + "/credentials/{credential}": at(
            "principalName",
            "credential",
            delete=operation("Take one away", _DONE, id=f"remove{one}Credential", problems=[404, 409]),
        ),
    }


def _question(summary: str, told: Json, asked: Json, *, id: str, **more: Any) -> Json:  # noqa: A002
    return at(post=operation(summary, {200: answer("The answer.", told)}, asked, id=id, **more))


ACCESS: Final[dict[str, Json]] = {
    **_principals("users", "User", "Users"),
    **_principals("services", "Service", "Services"),
    f"{ACCESS_PATH}/groups/": at(
        get=operation(
            "All groups that the caller may see",
            {200: answer("They and their members.", list_of(schema("GroupInfo")))},
            id="listGroups",
            problems=[413],
        )
    ),
    ACCESS_PATH + "/groups/{name}": at(
        "groupName",
        get=operation(
            "One group", {200: answer("It and its members.", schema("GroupInfo"))}, id="getGroup", problems=[404]
        ),
        put=operation(
            "Make a group without members",
            {201: answer("Made.")},
            body(schema("NewGroup")),
            id="addGroup",
            problems=[409],
        ),
        delete=operation("Remove a group; its name is never given again", _DONE, id="removeGroup", problems=[404, 409]),
    ),
    ACCESS_PATH + "/groups/{name}/members/{member}": at(
        "groupName",
        "member",
        put=operation(
            "Put somebody into a group, or give it another role there",
            _DONE,
            body(schema("Membership")),
            id="addMember",
            problems=[404, 409],
        ),
        delete=operation("Take somebody out of a group", _DONE, id="removeMember", problems=[404, 409]),
    ),
    SETUP_PATH: at(
        post=operation(
            "Give oneself a first credential, with a code",
            _DONE,
            body(schema("Setup")),
            id="setUp",
            problems=[403, 409, 429],
            **OPEN,
        )
    ),
    RULES_PATH + "/": at(
        get=operation(
            "All rules that the caller may see, by name",
            {200: answer("A page of them.", schema("RulePage"))},
            id="listRules",
            problems=[413],
            parameters=_PAGE,
        )
    ),
    RULES_PATH + "/{name}": at(
        "ruleName",
        get=operation("One rule", {200: answer("It.", schema("RuleInfo"), tagged=True)}, id="getRule", problems=[404]),
        put=operation(
            "Make a rule, or put it in the place of what it says",
            {201: answer("Made.", tagged=True), 204: answer("Replaced.", tagged=True)},
            body(schema("RuleBody")),
            id="putRule",
            problems=[409, 412],
            parameters=_TAG,
        ),
        delete=operation("Remove a rule", _DONE, id="removeRule", problems=[404, 409, 412], parameters=_TAG),
    ),
    QUESTIONS_PATH + "/document": at(
        get=operation(
            "All rules as one document",
            {
                200: {
                    "description": "It; its tag is of them all.",
                    "headers": {"ETag": ref("headers", "ETag")},
                    "content": {YAML: {"schema": _DOCUMENT}},
                }
            },
            id="getRules",
        ),
        put=operation(
            "Put a document in the place of all rules, or do nothing",
            {200: answer("What it changed.", schema("RulesDiff"))},
            _YAML_BODY,
            id="replaceRules",
            problems=[409, 412],
            parameters=_TAG,
        ),
    ),
    QUESTIONS_PATH + "/diff": _question(
        "What a document would change in the rules", schema("RulesDiff"), _YAML_BODY, id="compareRules"
    ),
    QUESTIONS_PATH + "/try": _question(
        "What a document would have changed in the decisions on record",
        schema("TrialInfo"),
        _YAML_BODY,
        id="tryRules",
        parameters=[ref("parameters", "since")],
    ),
    QUESTIONS_PATH + "/explain": _question(
        "Why somebody may do something, or may not",
        schema("ExplanationInfo"),
        body(schema("Question")),
        id="explainDecision",
        problems=[404],
    ),
    QUESTIONS_PATH + "/who-can": _question(
        "Who can do something", list_of(schema("WhoInfo")), body(schema("WhoCanQuestion")), id="whoCan"
    ),
    QUESTIONS_PATH + "/what-can": _question(
        "What somebody can do by rules",
        schema("ReachInfo"),
        body(schema("WhatCanQuestion")),
        id="whatCan",
        problems=[404],
    ),
    QUESTIONS_PATH + "/cases/{request}": at(
        "request",
        get=operation(
            "What was decided in a request, and why it would be so now",
            {200: answer("Each decision.", list_of(schema("CaseInfo")))},
            id="listCases",
            problems=[404],
        ),
    ),
}
