from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rt4ksr_client.cli import main
from rt4ksr_client.errors import CheckpointError, PictureError
from rt4ksr_export.checkpoint import load_network, weights_sha256
from rt4ksr_export.colours import (
    SITINGS,
    Siting,
    pack,
    rgb_samples,
    samples_to_codes,
    yuv420_samples,
    yuv420_to_rgb,
)
from rt4ksr_export.degradations import PRESETS, Degradation, compress_pan, downscale
from rt4ksr_export.network import RT4KSR, Architecture
from rt4ksr_export.pictures import (
    PairSource,
    find_pictures,
    load_pictures,
    sizes_to_train_on,
)
from rt4ksr_export.training.initialization import initial_network
from rt4ksr_export.training.recipe import Recipe, load_recipe
from rt4ksr_export.training.run import LogRow, Run
from rt4ksr_export.training.trainer import Trainer, Validation, harm

NARROW: dict[str, Any] = {"features": 8, "blocks": 1}
"""Of an architecture, for tests in which the weights do not matter: a fifth of the time."""
SMALL: dict[str, Any] = {"batch_size": 2, "patch_px": 16, "large_patch_px": 24, "warmup": 2}


@pytest.fixture(scope="module")
def photographs(photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    whole = Image.open(photograph)
    for index in range(4):
        piece = whole.crop((100 + 130 * index, 200, 300 + 130 * index, 380))
        piece.save(folder / f"{index}.png", compress_level=1)
    return folder


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


class Recorder:
    """Keeps the losses and the log of a training."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.rows: list[LogRow] = []
        self._interrupt_at = interrupt_at

    def step(self, iteration: int, loss: float) -> None:
        self.losses.append(loss)
        if iteration == self._interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def validated(self, row: LogRow) -> None:
        self.rows.append(row)


def trainer(
    photographs: Path,
    run: Path,
    recipe: Recipe,
    save_every: int = 4,
    **architecture: Any,
) -> Trainer:
    pictures = load_pictures(find_pictures([photographs]), 64, lambda *_: None)
    degradation = PRESETS[recipe.degrade]
    return Trainer(
        network=initial_network(Architecture(recipe.scale, **architecture), recipe.seed),
        recipe=recipe,
        source=PairSource(pictures, degradation, recipe.scale, recipe.seed, recipe.crops),
        validation=Validation(pictures[:1], degradation, recipe.scale, recipe.seed),
        run=Run(run),
        device=torch.device("cpu"),
        save_every=save_every,
    )


@pytest.mark.parametrize("scale", [2, 3])
def test_the_first_network_already_upscales_like_bicubic(scale: int, photograph: Path) -> None:
    small = Image.open(photograph).crop((300, 200, 396, 296))
    bicubic = np.asarray(small.resize((96 * scale, 96 * scale), Image.Resampling.BICUBIC)) / 255
    batch = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float() / 255

    with torch.inference_mode():
        upscaled = initial_network(Architecture(scale), seed=4)(batch)[0].permute(1, 2, 0).numpy()

    assert np.corrcoef(upscaled.ravel(), bicubic.ravel())[0, 1] > 0.95


def test_harm_is_what_a_patch_is_below_bicubic(photograph: Path) -> None:
    large = Image.open(photograph).crop((300, 200, 396, 296))
    small = downscale(large, 2)
    bicubic = small.resize(large.size, Image.Resampling.BICUBIC)
    small_samples, true, cubic = (
        torch.from_numpy(rgb_samples(np.asarray(p)))[None] for p in (small, large, bicubic)
    )
    error = cubic - true
    worse = true + error * 10**0.1  # 2 dB

    found = [harm(small_samples, x, true, 90).item() for x in (cubic, worse, true + error / 2)]

    assert found == pytest.approx([0, 0.2, 0], abs=0.02)  # Pillow rounds


@pytest.mark.parametrize("weight", [0.0, 8.0])
def test_a_recipe_may_forbid_harm(weight: float, photographs: Path, tmp_path: Path) -> None:
    """A random network is far below bicubic: with a weight for harm, its loss is greater."""
    recipe = Recipe(2, iterations=1, psnr_from=0.0, harm_weight=weight, crops=1, **SMALL)
    recorder = Recorder()

    trainer(photographs, tmp_path / "run", recipe, **NARROW).train(recorder)

    assert (recorder.losses[0] > 0) == (weight > 0)


def test_an_architecture_too_narrow_for_that_starts_at_random() -> None:
    architecture = Architecture(2, features=8, blocks=1)

    assert initial_network(architecture, seed=1).architecture == architecture


def test_training_lowers_the_loss_and_keeps_log_plot_preview_and_weights(
    photographs: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    # One loss all along, steps and an average that suit so few: no matter how a processor rounds.
    steady: dict[str, Any] = {"l2_from": 1.0, "learning_rate": 1e-3, "ema_decay": 0.9}
    recipe = Recipe(scale=2, iterations=60, **SMALL, **steady)

    assert trainer(photographs, tmp_path, recipe, save_every=30).train(recorder)

    assert np.mean(recorder.losses[-10:]) < 0.6 * np.mean(recorder.losses[:10])
    assert recorder.rows[1].psnr_db > recorder.rows[0].psnr_db
    assert [row.iteration for row in Run(tmp_path).rows()] == [30, 60]
    assert {path.name for path in tmp_path.iterdir()} == {
        "log.csv",
        "log.png",
        "preview.png",
        "state.pt",
        "weights.safetensors",
    }
    assert load_network(tmp_path / "weights.safetensors").architecture == Architecture(2)


@pytest.mark.parametrize(
    "architecture",
    [NARROW, pytest.param({}, marks=pytest.mark.slow)],
    ids=["narrow", "shipped"],
)
def test_an_interrupted_training_resumes_exactly(
    architecture: dict[str, int], photographs: Path, tmp_path: Path
) -> None:
    recipe = Recipe(scale=3, iterations=14, l2_from=0.5, **SMALL)
    whole = trainer(photographs, tmp_path / "whole", recipe, 8, **architecture)
    assert whole.train(Recorder())

    first = trainer(photographs, tmp_path / "parts", recipe, 8, **architecture)
    assert not first.train(Recorder(interrupt_at=11))
    second = trainer(photographs, tmp_path / "parts", recipe, 8, **architecture)
    assert second.iteration == 11
    assert second.train(Recorder())

    assert weights_sha256(second.averaged()) == weights_sha256(whole.averaged())


def test_a_nan_loss_stops_and_keeps_the_last_good_state(photographs: Path, tmp_path: Path) -> None:
    recipe = Recipe(scale=2, iterations=20, **SMALL)
    training = trainer(photographs, tmp_path, recipe, **NARROW)

    class Poison(Recorder):
        def validated(self, row: LogRow) -> None:
            with torch.no_grad():
                training.network.get_parameter("head.0.weight").fill_(torch.nan)

    with pytest.raises(CheckpointError, match="became nan in iteration 5"):
        training.train(Poison())

    kept = load_network(tmp_path / "weights.safetensors")
    assert torch.isfinite(kept.get_parameter("head.0.weight")).all()
    assert trainer(photographs, tmp_path, recipe, **NARROW).iteration == 4


def test_the_last_state_is_kept_if_the_next_one_cannot_be_written(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(scale=2, iterations=8, **SMALL)
    training = trainer(photographs, tmp_path, recipe, **NARROW)

    class FullDisk(Recorder):
        def validated(self, row: LogRow) -> None:
            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(CheckpointError, match="No space left"):
        training.train(FullDisk())
    monkeypatch.undo()

    assert trainer(photographs, tmp_path, recipe, **NARROW).iteration == 4
    assert not list(tmp_path.glob(".*"))


def test_a_run_of_another_recipe_is_rejected(photographs: Path, tmp_path: Path) -> None:
    trainer(photographs, tmp_path, Recipe(scale=2, iterations=4, **SMALL), **NARROW).train(
        Recorder()
    )

    with pytest.raises(CheckpointError, match=r"another recipe.*seed"):
        trainer(photographs, tmp_path, Recipe(scale=2, iterations=4, seed=9, **SMALL), **NARROW)


def test_pairs_depend_on_seed_and_iteration_alone(photographs: Path) -> None:
    pictures = load_pictures(find_pictures([photographs]), 64, lambda *_: None)
    source = PairSource(pictures, PRESETS["jpeg"], 2, seed=3)

    one, again, other = source.batch(7, 2, 16), source.batch(7, 2, 16), source.batch(8, 2, 16)

    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("scale", [2, 3])
def test_a_clean_small_patch_is_the_patch_of_the_whole_picture_scaled_down(
    scale: int, photographs: Path
) -> None:
    """No border effects: the margin around a patch is really enough."""
    pictures = load_pictures(find_pictures([photographs]), 64, lambda *_: None)
    source = PairSource(pictures, Degradation(clean_share=1.0), scale, seed=1)

    small, large = source.batch(0, 4, 16)

    for one_small, one_large in zip(small, large, strict=True):
        codes = samples_to_codes(one_large, "rgb").transpose(1, 2, 0)
        again = rgb_samples(np.asarray(downscale(Image.fromarray(codes), scale)))
        np.testing.assert_array_equal(again[:, 3:-3, 3:-3], one_small[:, 3:-3, 3:-3])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_keeps_size_and_content_and_changes_pixels(
    name: str, photograph: Path
) -> None:
    degradation = PRESETS[name]
    large = Image.open(photograph).crop((300, 100, 456, 256))
    small = np.asarray(downscale(large, 2))
    is_rgb = degradation.colours == "rgb"
    clean = rgb_samples(small) if is_rgb else yuv420_samples(small)
    rng = np.random.default_rng(2)

    pairs = [degradation.pair(large, 2, rng) for _ in range(24 if is_rgb else 8)]

    errors = [255 * float(np.abs(worse - clean).mean()) for worse, _ in pairs]
    assert all(worse.shape == clean.shape for worse, _ in pairs)
    assert all(true.shape[1:] == (2 * clean.shape[1], 2 * clean.shape[2]) for _, true in pairs)
    assert max(errors) < 16
    assert (max(errors) > 0.5) == (name != "clean")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_video_gets_worse_with_the_rate_factor_and_keeps_its_planes_in_place(
    codec: str, photograph: Path
) -> None:
    pixels = np.asarray(Image.open(photograph).crop((300, 100, 362, 160)))
    clean = samples_to_codes(yuv420_samples(pixels), "yuv420")

    errors = []
    for crf in (10, 50):
        codes = pack(compress_pan(pixels, "left", codec, crf, np.array([1, -2])))
        errors.append(np.abs(codes.astype(float) - clean).mean(axis=(1, 2)))

    assert (errors[0] < errors[1]).all()
    assert errors[0].max() < 6


def test_an_encoder_does_not_raise_the_priority_of_this_process() -> None:
    compress_pan(np.zeros((64, 64, 3), np.uint8), "left", "libsvtav1", 40, np.array([0, 0]))

    tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    assert {os.sched_getscheduler(task) for task in tasks} == {os.SCHED_OTHER}


@pytest.mark.parametrize("siting", SITINGS)
def test_chroma_keeps_its_place_from_rgb_to_420_and_back(siting: Siting) -> None:
    """A smooth picture comes back; with the other place of chroma it is shifted."""
    rows, columns = np.mgrid[0:64, 0:96]
    smooth = np.stack([rows * 2, columns * 2, 190 - columns - rows], axis=-1).astype(np.uint8)
    (other,) = set(SITINGS) - {siting}

    samples = yuv420_samples(smooth, siting)
    inside = np.s_[4:-4, 4:-4]

    error = np.abs(yuv420_to_rgb(samples, siting).astype(int) - smooth)[inside]
    shifted = np.abs(yuv420_to_rgb(samples, other).astype(int) - smooth)[inside]
    assert error.max() <= 1
    assert shifted.mean() > 2 * error.mean()


def test_weights_for_rgb_are_folded_where_a_network_for_video_is_trained(
    photographs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "mine.safetensors"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("scale = 2\nbatch_size = 2\npatch_px = 16\nlarge_patch_px = 24\n")
    given = ["--recipe", str(recipe), "--iterations", "2", "--init", "rt4ksr_x2"]
    given += ["--data", str(photographs), "-o", str(target)]

    assert exit_code("train", "--colours", "yuv420", "--degrade", "jpeg", *given) == 2
    assert exit_code("train", "--colours", "yuv420", "--degrade", "video", *given) == 0

    assert load_network(target).architecture == Architecture(2, colours="yuv420")
    again = [*given[:-1], str(tmp_path / "other.safetensors"), "--init", str(target)]
    assert exit_code("train", "--degrade", "jpeg", *again) == 1


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("size", [(217, 305), (390, 385)])
def test_a_picture_of_any_size_is_validated(
    scale: int, size: tuple[int, int], photograph: Path
) -> None:
    height, width = size
    picture = np.asarray(Image.open(photograph))[:height, :width]

    validation = Validation([picture], PRESETS["clean"], scale, seed=1)

    assert 20 < validation.bicubic_psnr_db < 60


def test_unusable_pictures_are_reported_and_the_rest_is_used(
    photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "good.png").write_bytes((photographs / "0.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (30, 200)).save(tmp_path / "narrow.png")
    reasons: dict[str, str] = {}

    pictures = load_pictures(
        find_pictures([tmp_path]), 64, lambda path, reason: reasons.update({path.name: reason})
    )

    assert len(pictures) == 1
    assert set(reasons) == {"broken.png", "narrow.png"}
    assert "smaller than a patch of 64" in reasons["narrow.png"]


def test_a_folder_without_a_usable_picture_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures in"):
        find_pictures([tmp_path])
    Image.new("RGB", (8, 8)).save(tmp_path / "tiny.png")
    with pytest.raises(PictureError, match="none of 1 pictures can be used"):
        load_pictures(find_pictures([tmp_path]), 64, lambda *_: None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale = 2\nspeed = 3", "unknown setting speed"),
        ("scale = 2\npatch_px = 15", "even sides"),
        ("scale = 2\ndegrade = 'rain'", "degrade must be one of"),
        ("scale = ", "recipe.toml"),
        ("scale = 2\nlearning_rate = -1.0", "must be positive"),
    ],
)
def test_an_invalid_recipe_is_rejected(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)

    with pytest.raises(CheckpointError, match=message):
        load_recipe(path)


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    recipe = Recipe(scale=2, iterations=1000, warmup=10, decay_from=0.5, learning_rate=1.0)

    rates = [recipe.learning_rate_at(i) for i in (0, 9, 500, 750, 999)]

    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01], abs=1e-4)


def test_training_and_fine_tuning_from_the_command_line(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("\n".join(f"{name} = {value}" for name, value in SMALL.items()))
    common = ["--data", str(photographs), "--recipe", str(recipe), "--iterations", "2"]
    mine = tmp_path / "mine" / "log.csv"
    mine.parent.mkdir()
    mine.write_text("mine")

    for extra, name in ((["--scale", "2"], "a"), (["--scale", "2", "--init", "rt4ksr_x2"], "b")):
        with pytest.raises(SystemExit) as ended:
            main(["train", *common, *extra, "-o", str(tmp_path / f"{name}.safetensors")])
        assert not ended.value.code
        assert load_network(tmp_path / f"{name}.safetensors").architecture == Architecture(2)

    for options, reason in (
        (["-o", str(tmp_path / "a.safetensors")], "a.safetensors: the file exists: --overwrite"),
        (
            ["-o", str(tmp_path / "d"), "--run", str(mine.parent)],
            "log.csv: the file exists: --",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", *common, "--scale", "2", *options])
        assert ended.value.code == 1
        assert reason in capsys.readouterr().err
    assert mine.read_text() == "mine"

    with pytest.raises(SystemExit) as ended:
        main(["train", *common, "--scale", "3", "--init", "rt4ksr_x2", "-o", str(tmp_path / "c")])
    assert ended.value.code == 1
    assert "for x2, not x3" in capsys.readouterr().err


def test_a_compressed_jpeg_is_trained_on_at_half_size_and_large_pictures_at_several(
    photograph: Path, tmp_path: Path
) -> None:
    large = Image.open(photograph).convert("RGB").resize((2600, 1500))
    files = {"low.jpg": (large.resize((720, 380)), 85), "high.jpg": (large.resize((720, 380)), 98)}
    for name, (picture, quality) in files.items():
        picture.save(tmp_path / name, quality=quality)
    large.save(tmp_path / "large.png", compress_level=1)

    sizes = {
        path.name: [
            p.shape[1::-1] for p in load_pictures([path], 64, print, sizes=sizes_to_train_on)
        ]
        for path in find_pictures([tmp_path])
    }

    assert sizes == {
        "low.jpg": [(360, 190)],
        "high.jpg": [(720, 380)],
        "large.png": [(2600, 1500), (1300, 750), (650, 375)],
    }


@pytest.mark.slow
def test_an_authors_checkpoint_can_be_fine_tuned(
    authors_checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    network = load_network(authors_checkpoint)
    assert isinstance(network, RT4KSR)
    recipe = Recipe(scale=network.architecture.scale, iterations=1, **SMALL)
    training = trainer(photographs, tmp_path, recipe)
    training.network.load_state_dict(network.state_dict())

    assert training.train(Recorder())
