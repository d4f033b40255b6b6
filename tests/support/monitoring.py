"""What the files in deploy/ ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"

# Grafana's and the adapter's placeholders, by something PromQL takes in their place.
_PLACEHOLDERS = {
    "$__rate_interval": "1m",
    "$model": ".*",
    "<<.GroupBy>>": "pod",
    "<<.LabelMatchers>>": 'pod="a"',
}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/rt4ksr.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    """The recording and alerting rules."""
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression with where it is from."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]
    for variable in dashboard()["templating"]["list"]:
        (metric,) = re.findall(r"^label_values\((\w+), \w+\)$", variable["query"]["query"])
        yield f"variable {variable['name']}", metric
    for rule in rules():
        yield f"rule {rule.get('alert', rule.get('record'))}", rule["expr"]
    values = yaml.safe_load(
        (DEPLOY / "kubernetes/monitoring/prometheus-adapter-values.yaml").read_text()
    )
    for rule in values["rules"]["custom"]:
        yield f"series of {rule['name']['as']}", rule["seriesQuery"]
        yield f"metric {rule['name']['as']}", rule["metricsQuery"]


def selectors() -> Iterator[tuple[str, str, set[str]]]:
    """Of every series asked for: where, its name, and the labels it is chosen by.

    Raises ValueError for what is no PromQL.
    """
    for where, text in expressions():
        for placeholder, value in _PLACEHOLDERS.items():
            text = text.replace(placeholder, value)
        for selector in _vector_selectors(text):
            assert selector.name is not None
            yield where, selector.name, {m.name for m in selector.matchers.matchers}


def _vector_selectors(text: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(text), visit)
    return found
