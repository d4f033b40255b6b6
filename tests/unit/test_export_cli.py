from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest
import torch

from rt4ksr_client.cli import main
from rt4ksr_client.contract import MODELS
from rt4ksr_export.checkpoint import save_network
from rt4ksr_export.cli.evaluate import evaluate_command
from rt4ksr_export.cli.export import export
from rt4ksr_export.cli.train import train
from rt4ksr_export.network import RT4KSR, Architecture


def run(*arguments: object) -> int:
    """Run ``rt4ksr`` and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_checkpoint_becomes_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(2)
    save_network(RT4KSR(Architecture(2, features=8, blocks=1)), tmp_path / "mine.safetensors")

    assert run("export", "--checkpoint", tmp_path / "mine.safetensors", "-o", tmp_path / "out") == 0

    assert (tmp_path / "out/rt4ksr_x2/1/model.onnx").is_file()
    assert (tmp_path / "out/rt4ksr_x2/config.pbtxt").is_file()
    assert "raw float off by at most" in capsys.readouterr().out


def test_shipped_weights_are_exported_by_their_id(tmp_path: Path, quick_verification: None) -> None:
    """As users of other RT4KSR exporters type it."""
    assert run("export", "--checkpoint-id", "rt4ksr_x2", "--scale", "2", "-o", tmp_path) == 0
    assert (tmp_path / "rt4ksr_x2/1/model.onnx").is_file()


@pytest.mark.parametrize(
    "name", ["rt4ksr_x2/config.pbtxt", "rt4ksr_x2/1/notes.txt", "rt4ksr_decode/1/model.py"]
)
def test_files_of_yours_in_a_model_are_only_replaced_with_overwrite(
    tmp_path: Path, quick_verification: None, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    torch.manual_seed(2)
    save_network(RT4KSR(Architecture(2, features=8, blocks=1)), tmp_path / "mine.safetensors")
    words = ("export", "--weights", tmp_path / "mine.safetensors", "-o", tmp_path / "out")
    assert run(*words) == 0
    assert run(*words) == 0  # the same files
    edited = tmp_path / "out" / name
    with edited.open("a") as file:
        file.write("# mine")

    assert run(*words) == 1

    assert f"{edited} is not what this export writes: --overwrite" in capsys.readouterr().err
    assert edited.read_text().endswith("# mine")
    assert run(*words, "--overwrite") == 0
    assert not edited.exists() or "# mine" not in edited.read_text()


def test_no_option_is_hidden() -> None:
    for command in (export, train, evaluate_command):
        assert not [p.name for p in command.params if isinstance(p, click.Option) and p.hidden]


def test_a_plan_is_built_from_the_repository_and_reported_when_it_is_removed(
    tmp_path: Path, quick_verification: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (2, 3):
        torch.manual_seed(seed)
        network = RT4KSR(Architecture(2, features=8, blocks=1))
        save_network(network, tmp_path / f"{seed}.safetensors")
    out = tmp_path / "out"

    assert run("export", "--weights", tmp_path / "2.safetensors", "-o", out) == 0
    before = (out / "rt4ksr_x2/1/model_fp16.onnx").read_bytes()
    assert run("export", "--target", "rtx", "-o", out) == 0
    assert (out / "rt4ksr_x2/1/model_fp16.onnx").read_bytes() == before
    assert (out / "rt4ksr_x2/1/model.rtx").is_file()
    assert "model.rtx: built with tensorrt_rtx" in capsys.readouterr().out

    assert run("export", "--weights", tmp_path / "3.safetensors", "-o", out, "--overwrite") == 0
    assert "removed model.rtx, which was built from another graph" in capsys.readouterr().err
    assert not (out / "rt4ksr_x2/1/model.rtx").exists()


def test_trtexec_prints_a_command_and_builds_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "model_repository", tmp_path / "out")

    assert run("export", "--target", "tensorrt", "--trtexec", "-o", tmp_path / "out") == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MODELS)
    assert all(line.startswith("trtexec --stronglyTyped --onnx=") for line in lines)
    assert not list((tmp_path / "out").rglob("*.plan"))


def test_options_of_a_plan_without_a_plan_are_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("export", "--trtexec") == 2
    assert "--target tensorrt or rtx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["--weights", "rt4ksr_x9"], "no weights named 'rt4ksr_x9'"),
        (["--weights", "rt4ksr_x2", "--scale", "3"], "are for x2, not x3"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", *arguments, "-o", tmp_path / "out") == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rt4ksr: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_scale_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "--model", "rt4ksr_x3", "--scale", "2", "-o", tmp_path / "out") == 2
    assert "rt4ksr_x3 is not a model for --scale 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_scale_is_a_usage_error_that_names_the_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("export", "--scale", "5") == 2
    assert "'2', '3'" in capsys.readouterr().err
