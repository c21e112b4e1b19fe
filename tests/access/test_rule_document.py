"""The document of rules: what goes out comes back, what comes back is said once, and nothing in it is passed over."""

import re

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.models.access import Right, Rule
from strongroom.storage_service.access import rule_document
from strongroom.storage_service.access.rule_document import (
    Changed,
    Difference,
    InvalidDocument,
    canonical,
    difference,
    read,
    write,
)
from tests.access.brute import UNIVERSE

bounded = settings(max_examples=150, deadline=None, database=None, derandomize=True)

TEXT = """\
rules:
  web:
    effect: allow
    subjects:
    - group:web
    actions:
    - read
    names:
    - secrets/web/*
"""
WEB = Rule(effect="allow", subjects=("group:web",), actions=(Right.READ,), names=("secrets/web/*",))

NOTES = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    [
        "no",
        "1.10",
        "~",
        "null",
        "a: b",
        "# c",
        "'",
        "\\",
        "two\nlines\n",
        " led",
        "x\u2028y\x85z\ufeff",
        "\x00\x1b[2J",
        "é",
    ]
)
NOTED = st.tuples(UNIVERSE, st.lists(NOTES, min_size=6, max_size=6)).map(
    lambda both: {
        name: msgspec.structs.replace(rule, note=note, created="x", created_by="user:ann")
        for (name, rule), note in zip(both[0].items(), both[1], strict=False)
    }
)


@bounded
@given(NOTED)
def test_what_goes_out_comes_back(rules: dict[str, Rule]) -> None:
    """Rules are the same after a way through their document, but for who made them, and its text is the same again."""
    text = write(rules)

    assert read(text) == {name: canonical(rule) for name, rule in rules.items()}
    assert write(read(text)) == text
    assert not difference(rules, read(text))


@bounded
@given(NOTED, st.randoms(use_true_random=False))
def test_the_same_rules_are_the_same_text(rules: dict[str, Rule], chance: object) -> None:
    """Neither the order of rules nor that in their lists makes a difference to the document."""
    turned = {
        name: msgspec.structs.replace(rule, names=rule.names[::-1], subjects=rule.subjects[::-1], created="later")
        for name, rule in reversed(rules.items())
    }

    assert write(turned) == write(rules)


def test_a_document_is_as_people_write_one() -> None:
    """It is in YAML's block style, and its plain scalars are what they look like."""
    assert write({"web": WEB}) == TEXT
    assert write({}) == "rules: {}\n"
    loose = """
    # ours
    rules:
      no:
        {effect: "allow", actions: [read], subjects: ['*'], names: [1.10, no, 2026-11-30],
         expires: 2027-01-01T00:00:00Z, note: yes}
    """
    assert read(loose) == {
        "no": Rule(
            effect="allow",
            subjects=("*",),
            actions=(Right.READ,),
            names=("1.10", "2026-11-30", "no"),
            expires="2027-01-01T00:00:00Z",
            note="yes",
        )
    }
    assert read('{"rules": {}}') == {}


REFUSED = {
    "": (None, None, "not one document"),
    "rules": (1, None, "mapping"),
    "[]": (1, None, "mapping"),
    "{}": (1, None, "one member 'rules'"),
    "rules: {}\nrule: {}\n": (2, None, "one member 'rules'"),
    "rules: {}\nrules: {}\n": (2, None, "appears twice"),
    "rules:\n": (1, None, "mapping from names"),
    "rules: []\n": (1, None, "mapping from names"),
    "rules: {}\n---\nrules: {}\n": (2, None, "not one document"),
    "rules: {\n": (2, None, "not one document"),
    "rules: {}\x00": (None, None, "not one document"),
    "rules: \ud800": (None, None, "not one document"),
    TEXT + "  web: {}\n": (10, "web", "appears twice"),
    TEXT + "    effect: deny\n": (10, "web", "appears twice"),
    TEXT + "    order: 1\n": (10, "web", "a member that a rule does not have"),
    TEXT + "    created_by: user:root\n": (10, "web", "a member that a rule does not have"),
    TEXT + "    <<: {effect: deny}\n": (10, "web", "a member that a rule does not have"),
    TEXT + "    note: [a]\n": (10, "web", "note is a text"),
    TEXT + "    note:\n": (10, "web", "note is a text"),
    TEXT + "    expires: ~\n": (10, "web", "expires is a text"),
    TEXT + "    expires: 2027-01-01\n": (10, "web", "a time is as in"),
    TEXT + "    networks: 10.0.0.0/8\n": (10, "web", "networks is a list"),
    TEXT + "    networks: [10.0.0.1/8]\n": (10, "web", "no bit set below"),
    TEXT + "    networks: ['::ffff:10.0.0.1']\n": (10, "web", "spelled as one of IPv4"),
    TEXT + "    ? [a]\n    : b\n": (10, "web", "a name is a text"),
    TEXT + "  a/b: {}\n": (10, None, "a name that a rule cannot have"),
    TEXT + "  x: {}\n": (10, "x", "it has no effect"),
    TEXT + "  x: allow\n": (10, "x", "a rule is a mapping"),
    TEXT.replace("allow", "Allow"): (2, "web", "effect is allow or deny"),
    TEXT.replace("read", "READ"): (2, "web", "actions are read"),
    TEXT.replace("/*", "/**/x"): (8, "web", "a pattern is"),
    TEXT.replace("group:", "grp:"): (4, "web", "a subject is"),
    TEXT.replace("- read", "- read\n    - read"): (6, "web", "none of them twice"),
    TEXT.replace("effect: allow", "effect: &e allow"): (3, None, "anchors"),
    TEXT.replace("effect: allow", "effect: *e"): (3, None, "anchors"),
    TEXT.replace("effect: allow", "effect: !!str allow"): (3, None, "tags"),
    TEXT.replace("effect: allow", "effect: !!python/name:os.system x"): (3, None, "tags"),
    "rules: " + "[" * 100_000: (1, None, "nested more deeply"),
    "rules: " + "{a: " * 100_000: (1, None, "nested more deeply"),
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text)[-40:])
def test_what_is_refused_is_told_by_line_and_rule(text: str) -> None:
    """Whatever is wrong is told with its line and, where there is one, its rule."""
    line, rule, reason = REFUSED[text]

    with pytest.raises(InvalidDocument) as raised:
        read(text)

    first = raised.value.faults[0]
    assert (first.line, first.rule) == (line, rule), first
    assert reason in first.reason
    assert str(first) in str(raised.value)


def test_an_error_repeats_nothing_of_the_text() -> None:
    """Neither values nor members that are unknown stand in an error, nor in what led to it."""
    for text in (
        TEXT + "    canary: 1\n",
        TEXT.replace("allow", "canary"),
        TEXT + "    expires: canary\n",
        TEXT + "  canary/x: {}\n",
        "rules: [canary: {\n",
        TEXT.replace("secrets/web/*", "canary//*"),
    ):
        with pytest.raises(InvalidDocument) as raised:
            read(text)
        assert "canary" not in f"{raised.value} {raised.value.__cause__}"
        assert raised.value.__context__ is None


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_taken() -> None:
    """Each invalid rule of a document is told, within bounds, and the valid ones are not returned."""
    text = TEXT + "".join(f"  r{number}: {{}}\n" for number in range(200))

    with pytest.raises(InvalidDocument, match=r"line 10, rule r0: it has no effect \(and 799 more\)") as raised:
        read(text)

    assert len(raised.value.faults) == rule_document.MAX_FAULTS
    assert {fault.rule for fault in raised.value.faults} == {f"r{number}" for number in range(13)}


def test_a_document_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is too long is not parsed, and more rules than there can be are refused."""
    monkeypatch.setattr(rule_document, "MAX_TEXT", len(TEXT) - 1)
    with pytest.raises(InvalidDocument, match="at most"):
        read(TEXT)
    monkeypatch.undo()
    monkeypatch.setattr(rule_document, "MAX_RULES", 1)
    with pytest.raises(InvalidDocument, match="at most 1 rules"):
        read(TEXT + "  x: {}\n  y: {}\n")


def test_both_parsers_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml, documents are read and written the same."""
    rules = {"web": msgspec.structs.replace(WEB, note="no\n\x00é"), "a": WEB}
    text = write(rules)
    monkeypatch.setattr(rule_document, "_LOADER", yaml.SafeLoader)
    monkeypatch.setattr(rule_document, "_DUMPER", yaml.SafeDumper)

    assert write(rules) == text
    assert read(text) == rules
    for refused, (_, rule, reason) in REFUSED.items():
        if len(refused) < 1000:
            with pytest.raises(InvalidDocument, match=re.escape(reason)) as raised:
                read(refused)
            assert raised.value.faults[0].rule == rule


def test_a_difference_is_told_member_by_member() -> None:
    """What was added, what was removed, and of what changed each member, as it was and as it is."""
    before = {"a": WEB, "b": WEB, "c": WEB, "e": WEB}
    after = {
        "b": msgspec.structs.replace(WEB, effect="deny", networks=("10.0.0.0/8",), created="later"),
        "c": msgspec.structs.replace(WEB, created="later", created_by="user:ann"),
        "d": WEB,
        "e": msgspec.structs.replace(WEB, names=("b", "a")),
    }

    said = difference(before, after)

    assert said == Difference(
        added=("d",),
        removed=("a",),
        changed={
            "b": (Changed("effect", "allow", "deny"), Changed("networks", None, ("10.0.0.0/8",))),
            "e": (Changed("names", ("secrets/web/*",), ("a", "b")),),
        },
    )
    assert said
    assert not difference(before, dict(reversed(before.items())))
