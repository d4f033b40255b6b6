"""Each picture goes to the model for how it was compressed: the pixels of the answer show which.

The default models answer with the nearest pixels, those for light compression with the inverse, and
those for strong compression with nothing but black.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rt4ksr_client import AsyncUpscaler, Upscaler
from rt4ksr_client.cli import cli
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, OUTPUT_NAME, ModelSpec
from rt4ksr_server import TritonServer
from support.nearest_models import (
    add_endpoints,
    inverted_graph,
    nearest_config,
    nearest_graph,
    write_model,
)
from support.servers import ServerFactory

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

LIGHT = [
    ModelSpec(f"light_x{s}", s, 64, 64, max_jpeg_quality=97, max_jpeg_quality_444=90)
    for s in (2, 3)
]
STRONG = ModelSpec("strong_x2", 2, 64, 64, max_jpeg_quality=70, max_jpeg_quality_444=70)


def black_graph(spec: ModelSpec) -> onnx.ModelProto:
    """Of what is nearest, no bit."""
    model = inverted_graph(spec)
    *_, inverse = model.graph.node
    inverse.op_type = "BitwiseXor"
    inverse.input.append("nearest")
    assert list(inverse.output) == [OUTPUT_NAME]
    return model


def write_repository(folder: Path, *, with_strong: bool = True) -> Path:
    for spec in (*DEFAULT_MODELS.values(), *LIGHT):
        graph = inverted_graph(spec) if spec in LIGHT else nearest_graph(spec)
        write_model(folder, nearest_config(spec), graph)
    if with_strong:
        write_model(folder, nearest_config(STRONG), black_graph(STRONG))
    return folder


@pytest.fixture(scope="module")
def server(
    server_with: ServerFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    repository = write_repository(tmp_path_factory.mktemp("repository"))
    add_endpoints(repository, ["rt4ksr_x2", "light_x2"])
    with server_with(repository) as running:
        yield running


@pytest.fixture
def small(photograph: Path) -> Image.Image:
    """A photograph without the traces of its own file."""
    with Image.open(photograph) as opened:
        image: Image.Image = opened.convert("RGB")
    return image.resize((200, 112), Image.Resampling.BICUBIC)


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def kind_of(small: Image.Image, large: Image.Image) -> str:
    """Which kind of model made ``large``."""
    scale = large.width // small.width
    nearest = np.asarray(small.convert("RGB")).repeat(scale, axis=0).repeat(scale, axis=1)
    answer = np.asarray(large.convert("RGB"))
    kinds = {"default": nearest, "light": 255 - nearest, "strong": 0 * nearest}
    (found,) = (kind for kind, expected in kinds.items() if np.array_equal(answer, expected))
    return found


@pytest.mark.parametrize("scale", [2, 3])
def test_a_picture_goes_to_the_model_for_its_compression(
    server: TritonServer, small: Image.Image, scale: int
) -> None:
    was_60 = opened(saved(opened(saved(small, "JPEG", quality=60)), "PNG"))
    strong = "strong" if scale == 2 else "light"  # x3 has none for strong compression
    cases = [
        (small, "default"),
        (opened(saved(small, "PNG")), "default"),
        (opened(saved(small, "JPEG", quality=99)), "default"),
        (opened(saved(small, "JPEG", quality=95)), "light"),
        (opened(saved(small, "JPEG", quality=95, subsampling="4:4:4")), "default"),
        (opened(saved(small, "JPEG", quality=85, subsampling="4:4:4")), "light"),
        (opened(saved(small, "JPEG", quality=60)), strong),
        (was_60, strong),
        (opened(saved(was_60, "JPEG", quality=98)), strong),
        (opened(saved(small, "AVIF", quality=60)), "light"),
        (opened(saved(small, "WEBP", lossless=True)), "default"),
    ]
    with Upscaler(server.grpc_url, scale=scale) as upscaler:
        for picture, expected in cases:
            assert kind_of(picture, upscaler.upscale(picture)) == expected
        large = upscaler.map(picture for picture, _ in cases)
        for (picture, expected), one in zip(cases, large, strict=True):
            assert kind_of(picture, one) == expected


def test_a_name_overrides_the_choice(server: TritonServer, small: Image.Image) -> None:
    jpeg = opened(saved(small, "JPEG", quality=60))

    with Upscaler(server.grpc_url, model="light_x2") as upscaler:
        assert kind_of(jpeg, upscaler.upscale(jpeg)) == "light"
        assert kind_of(small, upscaler.upscale(small)) == "light"
        assert upscaler.choose_model(jpeg).compression is None
        assert [model.name for model in upscaler.fetch_choices()] == ["light_x2"]
        assert kind_of(jpeg, upscaler.upscale(jpeg, model="rt4ksr_x2")) == "default"


def test_arrays_go_to_the_default_model(server: TritonServer, small: Image.Image) -> None:
    pixels = np.asarray(opened(saved(small, "JPEG", quality=60)))

    with Upscaler(server.grpc_url, scale=2) as upscaler:
        upscaled = upscaler.upscale(pixels)
        named = upscaler.upscale(pixels, model="light_x2")

    np.testing.assert_array_equal(upscaled, pixels.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(named, 255 - upscaled)


def test_the_choice_says_why(
    server: TritonServer, small: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rt4ksr_client")
    with Upscaler(server.grpc_url, scale=2) as upscaler:
        choice = upscaler.choose_model(opened(saved(small, "JPEG", quality=60)))
        names = [model.name for model in upscaler.fetch_choices()]

    assert str(choice) == "strong_x2: JPEG 60, 4:2:0 (by its quantization tables)"
    assert f"chose {choice}" in caplog.messages
    assert names == ["rt4ksr_x2", "light_x2", "strong_x2"]


def test_asyncio_and_pickles_choose_likewise(server: TritonServer, small: Image.Image) -> None:
    jpeg = opened(saved(small, "JPEG", quality=85))

    async def upscaled() -> tuple[Image.Image, str]:
        async with AsyncUpscaler(server.grpc_url, scale=2) as upscaler:
            choice = await upscaler.choose_model(jpeg)
            return await upscaler.upscale(jpeg), choice.model.name

    large, name = asyncio.run(upscaled())
    assert (kind_of(jpeg, large), name) == ("light", "light_x2")
    with (
        Upscaler(server.grpc_url, scale=2) as upscaler,
        pickle.loads(pickle.dumps(upscaler)) as copy,
    ):
        assert kind_of(jpeg, copy.upscale(jpeg)) == "light"


@pytest.mark.parametrize("max_request_px", [4_000, 10_000_000])
def test_tiles_go_to_the_chosen_model(
    server: TritonServer, small: Image.Image, max_request_px: int
) -> None:
    jpeg = opened(saved(small, "JPEG", quality=85))

    with Upscaler(server.grpc_url, scale=2, max_request_px=max_request_px) as upscaler:
        assert kind_of(jpeg, upscaler.upscale(jpeg)) == "light"


def test_an_encoded_wire_takes_models_with_an_endpoint(
    server: TritonServer, small: Image.Image
) -> None:
    jpeg = opened(saved(small, "JPEG", quality=60))

    with Upscaler(server.grpc_url, scale=2, wire="encoded", wire_format="png") as upscaler:
        assert [m.name for m in upscaler.fetch_choices()] == ["rt4ksr_x2", "light_x2"]
        assert kind_of(jpeg, upscaler.upscale(jpeg)) == "light"


def test_of_several_servers_all_must_have_a_model(
    server: TritonServer, server_with: ServerFactory, small: Image.Image, tmp_path: Path
) -> None:
    jpeg = opened(saved(small, "JPEG", quality=60))

    with server_with(write_repository(tmp_path, with_strong=False)) as other:
        for urls in ((server, other), (other, server)):
            url = ",".join(one.grpc_url for one in urls)
            with Upscaler(url, scale=2) as upscaler:
                large = list(upscaler.map([jpeg] * 4))
                assert [kind_of(jpeg, one) for one in large] == ["light"] * 4


def run(server: TritonServer, *arguments: object, stdin: bytes | None = None) -> Result:
    words = ["upscale", *map(str, arguments), "--url", server.grpc_url]
    return CliRunner().invoke(cli, words, input=stdin)


def test_each_picture_of_a_folder_gets_its_model(
    server: TritonServer, small: Image.Image, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    small.save(album / "clean.png")
    small.save(album / "q60.jpg", quality=60)
    small.save(album / "q95.jpg", quality=95)
    (album / "was60.png").write_bytes(saved(Image.open(album / "q60.jpg"), "PNG"))

    result = run(server, album, "--json", "-v")

    assert result.exit_code == 0, result.output
    rows = {
        Path(row["source"]).name: row for row in map(json.loads, result.stdout.splitlines()[:-1])
    }
    kinds = {
        path.name: kind_of(Image.open(path), Image.open(rows[path.name]["target"]))
        for path in album.iterdir()
    }
    assert kinds == {
        "clean.png": "default",
        "q60.jpg": "strong",
        "q95.jpg": "light",
        "was60.png": "strong",
    }
    assert {name: row["models"] for name, row in rows.items()} == {
        "clean.png": ["rt4ksr_x2"],
        "q60.jpg": ["strong_x2"],
        "q95.jpg": ["light_x2"],
        "was60.png": ["strong_x2"],
    }
    assert rows["q95.jpg"]["compression"] == {
        "quality": 95.0,
        "full_chroma": False,
        "evidence": "by its quantization tables",
    }
    assert rows["clean.png"]["compression"]["quality"] is None
    assert "  light_x2: JPEG 95, 4:2:0 (by its quantization tables); decode" in result.stderr


def test_model_auto_is_the_default_and_a_name_overrides_it(
    server: TritonServer, small: Image.Image, tmp_path: Path
) -> None:
    source = tmp_path / "in.jpg"
    small.save(source, quality=60)
    for number, (options, expected) in enumerate(
        [
            ([], "strong"),
            (["--model", "auto"], "strong"),
            (["--model", "rt4ksr_x2"], "default"),
            (["--model", "auto", "--scale", "3"], "light"),
        ]
    ):
        target = tmp_path / f"out{number}.png"
        result = run(server, source, "-o", target, *options)
        assert result.exit_code == 0, result.output
        assert kind_of(Image.open(source), Image.open(target)) == expected


def test_a_pipe_gets_its_model(server: TritonServer, small: Image.Image) -> None:
    content = saved(small, "JPEG", quality=85)

    result = run(server, "-", "-o", "-", stdin=content)

    assert result.exit_code == 0, result.stderr
    assert kind_of(opened(content), opened(result.stdout_bytes)) == "light"


def test_a_lossy_animation_gets_one_model(
    server: TritonServer, small: Image.Image, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.webp", tmp_path / "out.png"
    small.save(source, save_all=True, append_images=[small.rotate(180)], quality=85, duration=90)

    assert run(server, source, "-o", target).exit_code == 0
    with Image.open(source) as before, Image.open(target) as after:
        assert getattr(after, "n_frames", 1) == 2
        for index in range(2):
            before.seek(index), after.seek(index)
            assert kind_of(before, after) == "light"


def test_only_the_first_of_several_passes_is_by_compression(
    server: TritonServer, small: Image.Image, tmp_path: Path
) -> None:
    source = tmp_path / "in.jpg"
    small.save(source, quality=85)

    result = run(server, source, "-o", tmp_path / "out.png", "--to", "1200x672", "--json")

    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert row["models"] == ["light_x2", "rt4ksr_x3"]
    assert kind_of(Image.open(source), Image.open(tmp_path / "out.png")) == "light"


def test_status_shows_what_clients_choose_a_model_for(server: TritonServer) -> None:
    words = ["status", "--url", server.grpc_url]
    lines = CliRunner().invoke(cli, words).stdout.splitlines()
    served = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)

    by_model = {line.split()[0]: line for line in lines if line.strip()}
    assert "JPEG 97/90" in by_model["light_x2"]
    assert "default" in by_model["rt4ksr_x2"]
    limits = {m["name"]: m["served"]["max_jpeg_quality"] for m in served["models"] if m["served"]}
    assert limits == {
        "rt4ksr_x2": 0,
        "rt4ksr_x3": 0,
        "light_x2": 97,
        "light_x3": 97,
        "strong_x2": 70,
    }


def test_a_server_that_keeps_its_models_private_is_asked_by_name(
    server_with: ServerFactory, production_flags: list[str], small: Image.Image, tmp_path: Path
) -> None:
    jpeg = opened(saved(small, "JPEG", quality=85))
    for name in ("rt4ksr_x2", "rt4ksr_x2_jpeg"):
        graph = (inverted_graph if name.endswith("jpeg") else nearest_graph)(MODELS[name])
        write_model(tmp_path, nearest_config(MODELS[name]), graph)
    add_endpoints(tmp_path, ["rt4ksr_x2"])

    with server_with(tmp_path, extra_args=production_flags) as private:
        for url in (private.grpc_url, f"http://{private.http_url}"):
            with Upscaler(url, scale=2) as upscaler:
                names = [model.name for model in upscaler.fetch_choices()]
                assert names == ["rt4ksr_x2", "rt4ksr_x2_jpeg"]
                assert kind_of(jpeg, upscaler.upscale(jpeg)) == "light"
