from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.connection import DEFAULT_TIMEOUT_S
from rt4ksr_server.installation import KEEP_MEMORY
from support.entrypoint import ENTRYPOINT, container_flags, known_flags, run_entrypoint

SCRIPTS = Path(sysconfig.get_path("scripts"))
KEY = "0123456789abcdef0123456789abcdef"


Stage = list[tuple[str, str]]


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Stage]:
    """Of each stage of the Dockerfile its instructions and their values."""
    by_name: dict[str, Stage] = {}
    name = ""
    for line in DockerfileParser(str(root / "Dockerfile")).structure:
        if line["instruction"] == "FROM":
            name = line["value"].split()[-1]
        by_name.setdefault(name, []).append((line["instruction"], line["value"]))
    return by_name


def values(stage: Stage, instruction: str) -> list[str]:
    return [value for word, value in stage if word == instruction]


def test_hadolint_has_nothing_to_say_about_the_dockerfile(root: Path) -> None:
    result = subprocess.run(
        [SCRIPTS / "hadolint", "--no-color", root / "Dockerfile"], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_shellcheck_has_nothing_to_say_about_the_entrypoint() -> None:
    result = subprocess.run([SCRIPTS / "shellcheck", ENTRYPOINT], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_triton_release_has_the_known_holes_closed(root: Path) -> None:
    (version,) = re.findall(
        r"^ARG TRITON_VERSION=(\d+\.\d+)$", (root / "Dockerfile").read_text(), re.M
    )
    assert tuple(map(int, version.split("."))) >= (26, 11)


def test_the_last_stage_is_the_server_and_not_root(
    stages: dict[str, Stage],
) -> None:
    assert list(stages)[-1] == "server"
    for name in ("builder", "live", "server"):
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values(stages[name], "USER")[-1])


def test_the_server_starts_by_the_entrypoint_that_was_copied(
    stages: dict[str, Stage], root: Path
) -> None:
    (started,) = json.loads(values(stages["server"], "ENTRYPOINT")[-1])
    (copied,) = (copy for copy in values(stages["server"], "COPY") if copy.endswith(started))
    assert copied.split() == ["--chmod=555", str(ENTRYPOINT.relative_to(root)), started]
    assert values(stages["server"], "CMD") == []


def test_what_is_copied_exists_and_is_in_the_build_context(
    stages: dict[str, Stage], root: Path
) -> None:
    ignored, *lines = [
        line for line in (root / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    assert ignored == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    for stage in stages.values():
        for copy in values(stage, "COPY"):
            sources = [word for word in copy.split() if not word.startswith("--")][:-1]
            for source in sources:
                assert (root / source).exists(), source
                assert allowed & {source, *map(str, Path(source).parents)}, source


def test_the_image_tells_the_ports_the_server_listens_on(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    flags = container_flags(tmp_path)
    exposed = {flags[f"{what}-port"] for what in ("grpc", "metrics")}
    assert set(values(stages["server"], "EXPOSE")[-1].split()) == exposed
    (health,) = values(stages["server"], "HEALTHCHECK")
    assert f"http://127.0.0.1:{flags['http-port']}/v2/health/ready" in health


def test_the_container_and_the_embedded_server_keep_the_memory_of_frames_alike(
    stages: dict[str, Stage],
) -> None:
    assert f"GLIBC_TUNABLES={KEEP_MEMORY}" in values(stages["server"], "ENV")


def test_http_is_for_the_container_itself(tmp_path: Path) -> None:
    flags = container_flags(tmp_path)
    assert flags["http-address"] == "127.0.0.1"
    assert flags["grpc-address"] == flags["metrics-address"] == "0.0.0.0"


def test_requests_are_traced_where_a_collector_is_given(tmp_path: Path) -> None:
    def trace_flags(env: dict[str, str]) -> list[str]:
        flags = run_entrypoint(tmp_path, "--last=1", env=env).stdout.splitlines()
        assert flags[-1] == "--last=1"
        return [flag for flag in flags if flag.startswith("--trace-config=")]

    assert trace_flags({}) == trace_flags({"RT4KSR_OTLP_URL": ""}) == []
    url = "http://jaeger:4318/v1/traces"
    assert trace_flags({"RT4KSR_OTLP_URL": url, "RT4KSR_TRACE_RATE": "1"}) == [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={url}",
        "--trace-config=opentelemetry,resource=service.name=rt4ksr",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
    ]


def test_every_configuration_takes_the_buckets_of_the_image(root: Path) -> None:
    buckets = (root / "deploy" / "container" / "histogram.pbtxt").read_text()
    dashboard = (root / "deploy" / "grafana" / "dashboards" / "rt4ksr.json").read_text()
    configs = list((root / "model_repository").rglob("*.pbtxt"))
    assert len(configs) > 20
    for path in configs:
        config = text_format.Parse(path.read_text() + buckets, model_config_pb2.ModelConfig())
        (control,) = config.model_metrics.metric_control
        edges = list(control.histogram_options.buckets)
        assert edges == sorted(set(edges))
        assert edges[0] < 1000 / 60 < edges[-1]  # a frame of 60 a second
        assert f"{control.metric_identifier.family}_bucket" in dashboard


def test_tritonserver_knows_every_flag_of_the_container(tmp_path: Path) -> None:
    assert set(container_flags(tmp_path)) <= known_flags()


def test_every_flag_in_the_documentation_is_one_of_the_container_with_its_value(
    root: Path, tmp_path: Path
) -> None:
    flags = container_flags(tmp_path)
    table = (root / "docs" / "deploy.md").read_text().split("| flag | why |")[1].split("\n\n")[0]
    told = dict(re.findall(r"`--([\w-]+)=?([^`]*)`", table))
    assert len(told) > 8
    for name, value in told.items():
        assert flags[name] == value if value else name in flags


def test_further_flags_come_last_and_so_win(tmp_path: Path) -> None:
    result = run_entrypoint(tmp_path, "--model-config-name=gpu", "--http-address=0.0.0.0")
    assert result.stdout.splitlines()[-2:] == ["--model-config-name=gpu", "--http-address=0.0.0.0"]


def test_a_request_ends_before_its_connection_is_too_old(tmp_path: Path) -> None:
    grace_ms = int(container_flags(tmp_path)["grpc-max-connection-age-grace"])
    assert grace_ms >= DEFAULT_TIMEOUT_S * 1000


def restrictions(flags: dict[str, str]) -> tuple[set[str], str]:
    assert flags["grpc-restricted-protocol"] == flags["http-restricted-api"]
    categories, _, key = flags["http-restricted-api"].partition(":admin-key=")
    return set(categories.split(",")), key


def test_what_could_change_the_server_needs_a_key_that_nobody_has(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        flags = container_flags(tmp_path)
        categories, key = restrictions(flags)
        assert categories == {"model-repository", "trace", "logging", "shared-memory"}
        assert re.fullmatch("[0-9a-f]{64}", key)
        keys.add(key)
    assert len(keys) == 2
    assert flags["model-control-mode"] == "none"


def test_the_key_can_be_given_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    env = {"RT4KSR_ADMIN_KEY_FILE": str(tmp_path / "key")}
    assert restrictions(container_flags(tmp_path, env=env))[1] == KEY


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "fewer than 32 characters"),
        (KEY[:31], "fewer than 32 characters"),
        (f"{KEY}=,:", "letters, digits, - and _ only"),
        (f"{KEY}\n{KEY}", "letters, digits, - and _ only"),
        (None, "cannot read the admin key"),
    ],
)
def test_a_key_that_cannot_work_is_refused_and_not_shown(
    tmp_path: Path, key: str | None, reason: str
) -> None:
    if key is not None:
        (tmp_path / "key").write_text(key)
    result = run_entrypoint(tmp_path, env={"RT4KSR_ADMIN_KEY_FILE": str(tmp_path / "key")})
    assert result.returncode == 64
    assert result.stdout == ""
    assert reason in result.stderr
    assert not key or key not in result.stderr


def test_shared_memory_is_off_unless_asked_for(tmp_path: Path) -> None:
    assert container_flags(tmp_path)["allow-client-shm"] == "false"
    asked = container_flags(tmp_path, env={"RT4KSR_CLIENT_SHM": "true"})
    assert asked["allow-client-shm"] == "true"
    assert restrictions(asked)[0] == {"model-repository", "trace", "logging"}
    wrong = run_entrypoint(tmp_path, env={"RT4KSR_CLIENT_SHM": "yes"})
    assert (wrong.returncode, wrong.stdout) == (64, "")
