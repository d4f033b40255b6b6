from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions

from rt4ksr_client.cli import load_command
from support.entrypoint import container_flags, flags_by_name, known_flags
from support.monitoring import DEPLOY, dashboard, rules, selectors

Service = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    loaded: dict[str, Service] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return loaded


def test_the_compose_file_is_what_the_compose_specification_allows() -> None:
    compose = PyOptions(apply_merge=True).from_yaml((DEPLOY / "compose.yaml").read_text())
    compose.validate()
    servers = {"rt4ksr-cpu", "rt4ksr-gpu"}
    others = {"live", "prometheus", "grafana", "jaeger"}
    assert set(compose.service_names()) == servers | others


def test_each_profile_has_one_server_and_what_watches_it(services: dict[str, Service]) -> None:
    for profile, server in (("cpu", "rt4ksr-cpu"), ("gpu", "rt4ksr-gpu")):
        started = {name for name, service in services.items() if profile in service["profiles"]}
        assert started == {server, "prometheus", "grafana"}
    assert services["jaeger"]["profiles"] == ["tracing"]


def test_no_service_of_the_compose_file_is_privileged_or_reached_from_elsewhere(
    services: dict[str, Service],
) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_files_that_the_compose_file_mounts_exist(services: dict[str, Service]) -> None:
    mounts = (service.get("volumes", []) for service in services.values())
    sources = {mount.split(":")[0] for mount in itertools.chain.from_iterable(mounts)}
    paths = {source for source in sources if source.startswith(".")}
    assert paths and all((DEPLOY / path).exists() for path in paths)


def test_tritonserver_knows_every_flag_of_the_compose_file(
    services: dict[str, Service],
) -> None:
    servers = [service for service in services.values() if service.get("image") == "rt4ksr"]
    commands = [flag for service in servers for flag in service.get("command", [])]
    assert commands
    assert flags_by_name(commands).keys() <= known_flags()


def test_the_live_service_calls_the_command_as_it_is(services: dict[str, Service]) -> None:
    pytest.importorskip("av", reason="the video extra is not installed")
    source, *flags = services["live"]["command"]
    known = {name for option in load_command("live").params for name in option.opts}

    assert source == "${SOURCE:-udp://0.0.0.0:5000}"
    assert {flag.partition("=")[0] for flag in flags} <= known
    assert services["live"]["ipc"] == "service:rt4ksr-gpu"
    assert services["rt4ksr-gpu"]["ipc"] == "shareable"


def test_the_compose_file_waits_until_frames_in_flight_are_answered(
    services: dict[str, Service], tmp_path: Path
) -> None:
    drain_s = int(container_flags(tmp_path)["exit-timeout-secs"])
    for name in ("rt4ksr-cpu", "rt4ksr-gpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= drain_s + 5


def test_prometheus_asks_the_server_of_either_profile_at_its_metrics_port(
    services: dict[str, Service], tmp_path: Path
) -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    (discovery,) = job["dns_sd_configs"]
    (name,) = discovery["names"]
    assert str(discovery["port"]) == container_flags(tmp_path)["metrics-port"]
    for server in ("rt4ksr-cpu", "rt4ksr-gpu"):
        assert services[server]["networks"]["default"]["aliases"] == [name]


def test_every_expression_is_promql_and_asks_for_something() -> None:
    # Which metrics there really are is tested with a server.
    assert len(list(selectors())) > 20


def test_rules_use_only_rules_that_are_there() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for _, name, _ in selectors() if name.startswith("rt4ksr:")}
    assert recorded == asked


def test_the_dashboard_asks_the_provisioned_data_source() -> None:
    provisioned = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    for panel in dashboard()["panels"]:
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_the_dashboard_is_mounted_where_grafana_looks_for_it(services: dict[str, Service]) -> None:
    provisioned = DEPLOY / "grafana" / "provisioning" / "dashboards" / "rt4ksr.yml"
    (provider,) = yaml.safe_load(provisioned.read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/rt4ksr.json"


def test_no_two_panels_have_one_number_or_one_place() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
