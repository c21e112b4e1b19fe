"""What is handed out for Prometheus and Grafana, and the page of metrics, hold to what the service tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from strongroom.storage_service.metrics import OWN, SERVING, Definition, full_name

ROOT: Final = Path(__file__).resolve().parents[1]
FILES: Final = ROOT / "deploy/monitoring"
PAGE: Final = ROOT / "docs/monitoring.md"
_METRIC: Final = re.compile(r"\bstrongroom_[a-z0-9_]+")
_LABEL: Final = re.compile(r"\b([a-z]+)\s*(?:=~|!~|!=|=)\s*\"")
_BY: Final = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
OUTER: Final = {"instance", "job", "le"}  # Prometheus' own


def defined() -> dict[str, Definition]:
    """Return every metric of both processes by its full name."""
    return {full_name(process, each): each for process, own in OWN.items() for each in (*SERVING, *own)}


def told() -> dict[str, Definition]:
    """Return the same by the names that samples have: a histogram has three."""
    names: dict[str, Definition] = {}
    for name, each in defined().items():
        ends = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        names |= {name + end: each for end in ends}
    return names


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "strongroom-alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FILES / "grafana-strongroom.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


def test_rules_and_dashboard_name_what_there_is() -> None:
    """Every metric and every label that an expression names is one that the service tells, and every one is used."""
    known, used = told(), set()
    for expression in expressions():
        names = set(_METRIC.findall(expression))
        labels = {*_LABEL.findall(expression)} | {
            word.strip() for listed in _BY.findall(expression) for word in listed.split(",")
        }
        assert names <= known.keys(), expression
        assert labels - OUTER <= {label for name in names for label in known[name].labels}, expression
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
        used |= {
            full
            for full, each in defined().items()
            for name in names
            if known[name] is each and name in (full, full + "_bucket")
        }

    assert used == defined().keys()


def test_counters_are_read_as_rates_and_nothing_else_is() -> None:
    """A counter stands in rate or increase, a gauge in neither."""
    known = told()
    for expression in expressions():
        for match in _METRIC.finditer(expression):
            counted = known[match[0]].kind != "gauge"
            before = expression[: match.start()]
            assert before.endswith(("rate(", "increase(")) is counted, expression


def test_every_rule_says_what_is_wrong_and_how_bad_it_is() -> None:
    """Each has a name of its own, a severity and a summary that names the instance."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert re.fullmatch(r"[0-9]+[mhd]", rule.get("for", "1m"))


def test_every_panel_can_be_drawn() -> None:
    """Each has an id, a place that no other has, a title and something to ask of the chosen data source."""
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len({panel["id"] for panel in panels()}) == len(panels()) > 10
    for panel in panels():
        assert panel["title"] and panel["targets"] and panel["datasource"]["uid"] == "${source}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_the_job_asks_the_page_of_metrics_with_a_token_and_loads_the_rules() -> None:
    """What is handed out as an example fits the files beside it, and shows the token over TLS alone."""
    settings = yaml.safe_load((FILES / "prometheus.yml").read_text())
    (job,) = settings["scrape_configs"]
    assert (job["metrics_path"], job["scheme"]) == ("/metrics", "https")
    assert job["authorization"]["credentials_file"] and job["job_name"] == "strongroom"
    assert all((FILES / name).is_file() for name in settings["rule_files"])


def test_the_page_lists_every_metric_and_no_other() -> None:
    """Names, kinds, labels and words of the table are those of the definitions."""
    rows = re.findall(r"^\| (`strongroom_.*?) \| (\w+) \| (.*?) ?\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text)
        for names, kind, labels, text in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == {name: (each.kind, each.labels, each.text) for name, each in defined().items()}


@pytest.mark.parametrize("label", sorted({label for each in defined().values() for label in each.labels}))
def test_every_label_is_explained(label: str) -> None:
    """Below the table the page says what values each label has; those of build_info speak for themselves."""
    explained = PAGE.read_text().partition("## What is measured")[2].partition("\n\n- ")[2]
    assert label in ("version", "python") or f"`{label}`" in explained
