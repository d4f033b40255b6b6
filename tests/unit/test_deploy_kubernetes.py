from __future__ import annotations

import functools
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support.entrypoint import ROOT, container_flags, flags_by_name, known_flags

Manifest = dict[str, Any]

KUBERNETES = ("1.32", "1.37")  # the oldest and the newest release whose schemas are tried
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
CUSTOM = {"ServiceMonitor"}  # not of Kubernetes itself


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    kubectl = Path(sysconfig.get_path("scripts"), "kubectl")
    text = subprocess.run(
        [kubectl, "kustomize", FOLDER / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(yaml.safe_load_all(text))


def of_kind(overlay: str, kind: str) -> Iterator[Manifest]:
    return (manifest for manifest in built(overlay) if manifest["kind"] == kind)


def only(overlay: str, kind: str) -> Manifest:
    (manifest,) = of_kind(overlay, kind)
    return manifest


def inference_service() -> Manifest:
    loaded: Manifest = yaml.safe_load((FOLDER / "kserve" / "inferenceservice.yaml").read_text())
    return loaded


def pod_spec(where: str) -> Manifest:
    if where == "kserve":
        spec: Manifest = inference_service()["spec"]["predictor"]
    else:
        spec = only(where, "Deployment")["spec"]["template"]["spec"]
    return spec


def selects(selector: Manifest, labels: Manifest) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod_labels(overlay: str) -> Manifest:
    labels: Manifest = only(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.fixture(params=[*OVERLAYS, "kserve"])
def pod(request: pytest.FixtureRequest) -> Manifest:
    return pod_spec(request.param)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_what_kubernetes_takes(overlay: str, version: str) -> None:
    checked = [manifest for manifest in built(overlay) if manifest["kind"] not in CUSTOM]
    for manifest in checked:
        kubernetes_validate.validate(manifest, version, strict=True)
    assert len(checked) >= 8


def test_a_service_monitor_is_what_the_prometheus_operator_takes(overlay: str) -> None:
    from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

    monitor = only(overlay, "ServiceMonitor")
    # The model leaves out what it does not know.
    taken = ServiceMonitor.model_validate(monitor).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    assert taken == monitor


def test_the_predictor_of_kserve_is_a_pod_that_kubernetes_takes() -> None:
    # KServe adds its own fields to those of a pod; this is the only one of them used here.
    spec = {key: value for key, value in pod_spec("kserve").items() if key != "minReplicas"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rt4ksr"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


def test_kserve_runs_the_container_of_the_gpu_overlay() -> None:
    (ours,) = pod_spec("gpu")["containers"]
    (theirs,) = pod_spec("kserve")["containers"]
    assert theirs["name"] == "kserve-container"
    assert [port["containerPort"] for port in theirs["ports"]] == [8001]
    same = theirs.keys() - {"name", "ports", "volumeMounts"}
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}


def test_tritonserver_knows_every_flag_of_the_manifests(pod: Manifest) -> None:
    (container,) = pod["containers"]
    assert flags_by_name(container.get("args", [])).keys() <= known_flags()
    assert "command" not in container  # which would go round the entrypoint


def test_the_pod_keeps_to_the_restricted_pod_security_standard(pod: Manifest) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}


def test_every_mount_has_its_volume_and_every_volume_a_mount(pod: Manifest) -> None:
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {"/tmp", "/dev/shm", "/var/cache/rt4ksr"} <= mounts.keys()
    assert sorted(mounts.values()) == sorted(volume["name"] for volume in pod["volumes"])
    for volume in pod["volumes"]:
        assert len(volume) == 2, f"{volume['name']} has several sources"


def test_the_probes_ask_the_port_that_the_server_listens_on(pod: Manifest, tmp_path: Path) -> None:
    port = int(container_flags(tmp_path)["grpc-port"])
    (container,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": port}
        assert container[probe]["timeoutSeconds"] <= container[probe]["periodSeconds"]


def test_a_pod_on_a_gpu_has_time_to_build_engines(overlay: str) -> None:
    (container,) = pod_spec(overlay)["containers"]
    probe = container["startupProbe"]
    startup_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert startup_s >= (900 if overlay == "gpu" else 120)
    assert only(overlay, "Deployment")["spec"]["progressDeadlineSeconds"] > startup_s


def test_a_frame_in_flight_is_answered_before_the_pod_is_killed(
    pod: Manifest, tmp_path: Path
) -> None:
    (container,) = pod["containers"]
    notice_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = int(container_flags(tmp_path)["exit-timeout-secs"])
    assert pod["terminationGracePeriodSeconds"] >= notice_s + drain_s + 5


def test_services_lead_to_ports_of_the_pod(overlay: str, pod_labels: Manifest) -> None:
    (container,) = pod_spec(overlay)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = {
        service["metadata"]["name"]: service["spec"] for service in of_kind(overlay, "Service")
    }
    assert services.keys() == {"rt4ksr", "rt4ksr-replicas", "rt4ksr-metrics"}
    for spec in services.values():
        assert spec["selector"].items() <= pod_labels.items()
        for port in spec["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    assert services["rt4ksr-replicas"]["clusterIP"] == "None"


def test_the_ports_of_the_pod_are_those_of_the_flags(overlay: str, tmp_path: Path) -> None:
    flags = container_flags(tmp_path)
    (container,) = pod_spec(overlay)["containers"]
    for port in container["ports"]:
        assert flags[f"{port['name']}-port"] == str(port["containerPort"])
        assert flags[f"{port['name']}-address"] == "0.0.0.0"


def test_selectors_select_the_pod(overlay: str, pod_labels: Manifest) -> None:
    deployment = only(overlay, "Deployment")["spec"]
    assert selects(deployment["selector"], pod_labels)
    assert selects(only(overlay, "PodDisruptionBudget")["spec"]["selector"], pod_labels)
    assert selects(only(overlay, "NetworkPolicy")["spec"]["podSelector"], pod_labels)
    (spread,) = pod_spec(overlay)["topologySpreadConstraints"]
    assert selects(spread["labelSelector"], pod_labels)


def test_the_network_policy_lets_clients_and_prometheus_in_and_nothing_out(overlay: str) -> None:
    policy = only(overlay, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    clients, prometheus = policy["ingress"]
    assert clients["ports"] == [{"port": "grpc"}]
    assert clients["from"] == [{"podSelector": {"matchLabels": {"rt4ksr-client": "true"}}}]
    assert prometheus["ports"] == [{"port": "metrics"}]
    assert list(prometheus["from"][0]) == ["namespaceSelector"]


def test_the_service_monitor_finds_one_service_and_its_port(overlay: str) -> None:
    monitor = only(overlay, "ServiceMonitor")["spec"]
    (service,) = (
        service
        for service in of_kind(overlay, "Service")
        if selects(monitor["selector"], service["metadata"]["labels"])
    )
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_autoscaler_scales_the_deployment_by_the_metric_of_the_adapter(overlay: str) -> None:
    scaler = only(overlay, "HorizontalPodAutoscaler")["spec"]
    deployment = only(overlay, "Deployment")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    values = yaml.safe_load((FOLDER / "monitoring" / "prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    (metric,) = scaler["metrics"]
    wait_ms = {"cpu": "500", "gpu": "20"}[overlay]
    assert metric["type"] == "Pods"
    assert metric["pods"] == {
        "metric": {"name": rule["name"]["as"]},
        "target": {"type": "AverageValue", "averageValue": wait_ms},
    }


def test_what_the_pod_names_is_there(overlay: str) -> None:
    spec = pod_spec(overlay)
    assert spec["serviceAccountName"] == only(overlay, "ServiceAccount")["metadata"]["name"]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {c["metadata"]["name"] for c in of_kind(overlay, "PersistentVolumeClaim")}
    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert all(secret["optional"] for secret in secrets)


def test_only_the_gpu_overlay_asks_for_a_gpu() -> None:
    for overlay, args, gpus in (("cpu", None, None), ("gpu", ["--model-config-name=gpu"], "1")):
        (container,) = pod_spec(overlay)["containers"]
        assert container.get("args") == args
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
