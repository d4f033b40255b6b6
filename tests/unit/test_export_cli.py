from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rt4ksr_client.cli import main
from rt4ksr_export.checkpoint import save_network
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


def test_what_users_of_the_public_fork_type_is_accepted(tmp_path: Path) -> None:
    fork_options = ["--checkpoint-id", "rt4ksr_x2", "--scale", "2", "--arch", "rt4ksr_rep"]

    assert run("export", *fork_options, "--is-train", "--rep", "-o", tmp_path) == 0
    assert (tmp_path / "rt4ksr_x2/1/model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["--weights", "rt4ksr_x9"], "no weights named 'rt4ksr_x9'"),
        (["--weights", "rt4ksr_x2", "--scale", "3"], "are for x2, not x3"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", *arguments, "-o", tmp_path / "out") == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rt4ksr: error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_an_unknown_scale_is_a_usage_error_that_names_the_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("export", "--scale", "5") == 2
    assert "'2', '3'" in capsys.readouterr().err
