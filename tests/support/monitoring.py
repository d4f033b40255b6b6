"""What the files in deploy/ ask Prometheus for."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
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


def firing_alerts(before: str, after: str, severity: str) -> set[tuple[str, str]]:
    """Return the alerts of that severity, with the model, that would fire in the end.

    ``before`` and ``after`` are what a server's ``/metrics`` gave at the ends of the time looked
    at: a rate is their difference. Whatever a rule asks of other exporters is not there.
    """
    found = set()
    for rule in rules():
        if rule.get("labels", {}).get("severity") == severity:
            vector = _evaluate(promql_parser.parse(rule["expr"]), _series(before), _series(after))
            found |= {(rule["alert"], dict(labels).get("model", "")) for labels in vector}
    return found


Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]


def _series(text: str) -> Vector:
    """Return what is in the text of ``/metrics``, by labels; the name is one of them."""
    found: Vector = {}
    for name, labels, value in re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", text, re.MULTILINE):
        pairs = re.findall(r'(\w+)="([^"]*)"', labels)
        found[frozenset([("__name__", name), *pairs])] = float(value)
    return found


def _evaluate(node: Any, before: Vector, after: Vector) -> Vector:
    """Evaluate the part of PromQL that the rules are written in."""
    if isinstance(node, promql_parser.ParenExpr):
        return _evaluate(node.expr, before, after)
    if isinstance(node, promql_parser.NumberLiteral):
        return {frozenset(): node.val}
    if isinstance(node, promql_parser.VectorSelector):
        return {labels: value for labels, value in after.items() if _selects(node, dict(labels))}
    if isinstance(node, promql_parser.Call):
        assert node.func.name == "rate"
        newest = _evaluate(node.args[0].vector_selector, before, after)
        return {labels: value - before.get(labels, 0.0) for labels, value in newest.items()}
    if isinstance(node, promql_parser.AggregateExpr):
        assert str(node.op) == "sum" and node.modifier is not None
        sums: Vector = {}
        for labels, value in _evaluate(node.expr, before, after).items():
            group = frozenset(pair for pair in labels if pair[0] in node.modifier.labels)
            sums[group] = sums.get(group, 0.0) + value
        return sums
    assert isinstance(node, promql_parser.BinaryExpr), node
    left, right = (_evaluate(side, before, after) for side in (node.lhs, node.rhs))
    operation = _OPERATIONS[str(node.op)]
    results: Vector = {}
    for labels, value in left.items():
        other = right.get(frozenset() if isinstance(node.rhs, _NUMBER) else labels)
        result = None if other is None else operation(value, other)
        if result is not None:
            results[labels] = result
    return results


_NUMBER = promql_parser.NumberLiteral
_OPERATIONS: dict[str, Callable[[float, float], float | None]] = {
    "+": operator.add,
    "-": operator.sub,
    "/": lambda a, b: a / b if b else None,  # 0/0 is NaN, which is neither more nor less
    ">": lambda a, b: a if a > b else None,
    "==": lambda a, b: a if a == b else None,
}


def _selects(node: promql_parser.VectorSelector, labels: dict[str, str]) -> bool:
    """Whether a selector selects the series with these labels."""
    if labels["__name__"] != node.name:
        return False
    for matcher in node.matchers.matchers:
        value = labels.get(matcher.name, "")
        kind = str(matcher.op).rpartition(".")[2]
        is_regex = kind in ("Re", "NotRe")
        equal = bool(re.fullmatch(matcher.value, value)) if is_regex else matcher.value == value
        if equal != (kind in ("Re", "Equal")):
            return False
    return True


def _vector_selectors(text: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(text), visit)
    return found
