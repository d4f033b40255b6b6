"""What the stages of the image endpoint decide by themselves, without a tritonserver."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import pictures
from rt4ksr_client.contract import PictureParameter
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import SideData
from rt4ksr_server.options import ServerOptions
from rt4ksr_server.stages.encoding import Encoding, EncodingDefaults
from rt4ksr_server.stages.headers import ignores_headers, parent_ignores_headers
from rt4ksr_server.stages.inspection import Limits, inspect
from rt4ksr_server.stages.sidecar import Sidecar
from support.entrypoint import container_flags, flags_by_name


def encoded(format_name: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, format_name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_the_format_of_a_file_is_recognised_by_its_content(name: str) -> None:
    assert inspect(encoded(name.upper()), Limits()) == name
    assert inspect(encoded(name.upper()) + bytes(9), Limits()) == name


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_a_file_truncated_anywhere_is_rejected(name: str) -> None:
    data = encoded(name)
    for length in range(len(data)):
        with pytest.raises(PictureError):
            inspect(data[:length], Limits())


def test_the_limit_in_bytes_is_enforced() -> None:
    data = encoded("PNG")
    inspect(data, Limits(max_bytes=len(data)))

    with pytest.raises(PictureError, match=f"accepts at most {len(data) - 1} per picture"):
        inspect(data, Limits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_px": -1}, {"max_side_px": 0}], ids=str)
def test_limits_that_nothing_meets_are_rejected(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Limits(**limits)


def test_defaults_come_from_the_configuration() -> None:
    encodings = EncodingDefaults.from_config(
        {"default_format": "webp", "default_quality_webp": "70", "default_quality_jpeg": "60"}
    )

    assert encodings.encoding_for({}) == Encoding("webp", 70)
    assert encodings.encoding_for({"FORMAT": "jpg"}) == Encoding("jpeg", 60)
    assert encodings.encoding_for({"format": "png", "quality": "7"}) == Encoding("png", 7)
    assert EncodingDefaults().encoding_for({}) == Encoding("jpeg", None)


@pytest.mark.parametrize(
    "parameters", [{"default_format": "gif"}, {"default_quality_jpeg": "101"}], ids=str
)
def test_defaults_that_no_request_could_ask_for_are_rejected(
    parameters: dict[str, str],
) -> None:
    with pytest.raises(PictureError):
        EncodingDefaults.from_config(parameters)


def test_a_sidecar_survives_its_way_through_bytes() -> None:
    alpha = Image.linear_gradient("L").resize((9, 7))
    info: dict[str, object] = {
        "icc_profile": b"\0\xff",
        "exif": b"Exif\0\0",
        "xmp": b"<x/>",
        "dpi": (72.0, 96.5),
    }
    info["chroma_subsampled"] = True
    sent = Sidecar(9, 7, SideData(alpha, True, info))

    found = Sidecar.from_bytes(sent.to_bytes())

    assert (found.width_px, found.height_px) == (9, 7)
    assert found.side_data.gray
    assert found.side_data.info == info
    assert found.side_data.alpha is not None
    np.testing.assert_array_equal(np.asarray(found.side_data.alpha), np.asarray(alpha))


def test_a_sidecar_of_an_opaque_picture_is_small() -> None:
    _, side_data = pictures.split(Image.new("RGB", (1920, 1080)))

    assert len(Sidecar(1920, 1080, side_data).to_bytes()) < 200


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (9, 7), (8, 6)])
def test_padding_is_cropped(size: tuple[int, int], scale: int) -> None:
    width, height = size
    upscaled = np.zeros(((height + height % 2) * scale, (width + width % 2) * scale, 3), np.uint8)

    cropped = Sidecar(width, height, SideData(None, False)).crop(upscaled)

    assert cropped.shape == (height * scale, width * scale, 3)


@pytest.mark.parametrize("shape", [(15, 20, 3), (16, 30, 3), (2, 2, 3)], ids=str)
def test_a_frame_of_another_picture_is_rejected(shape: tuple[int, ...]) -> None:
    sidecar = Sidecar(9, 7, SideData(None, False))

    with pytest.raises(PictureError, match="does not become"):
        sidecar.crop(np.zeros(shape, np.uint8))


FORWARDED = f"--http-header-forward-pattern={PictureParameter.HEADERS}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--model-repository=/models", "--http-port=8000"], True),
        (["--allow-http=true"], True),
        (["--allow-http=false"], False),
        (["--allow-http", "0"], False),
        ([FORWARDED], False),
        (FORWARDED.split("=", 1), False),
        (["--http-header-forward-pattern=.*"], False),
        (["--http-header-forward-pattern=(format)"], True),
        (["--http-header-forward-pattern=x-.*"], True),
        (["--http-header-forward-pattern="], True),
        ([FORWARDED, "--http-header-forward-pattern=x-.*"], True),
        (["--http-header-forward-pattern=x-.*", FORWARDED], False),
        (["--http-header-forward-pattern=\\pL+"], False),  # of RE2, unknown to Python
    ],
    ids=str,
)
def test_a_stage_knows_from_the_command_line_whether_headers_reach_it(
    arguments: list[str], expected: bool
) -> None:
    assert ignores_headers(arguments) is expected


def test_a_server_that_is_not_a_program_of_its_own_may_forward_headers() -> None:
    assert not parent_ignores_headers()  # this test's parent is not tritonserver


def test_only_the_two_headers_are_forwarded_however_they_are_spelled(tmp_path: Path) -> None:
    for flags in (
        container_flags(tmp_path),
        flags_by_name(
            ServerOptions(
                tmp_path.parent, "127.0.0.1", {"http": 0}, 1.0, 1.0, extra_args=()
            ).arguments("id", "prefix", {"http": 1})
        ),
    ):
        pattern = flags["http-header-forward-pattern"]
        assert all(re.search(pattern, name) for name in ("format", "Format", "quality", "QUALITY"))
        assert not any(
            re.search(pattern, name)
            for name in ("x-format", "format-version", "image-quality", "qualitys", "content-type")
        )


@pytest.mark.parametrize("stage", ["decode", "encode"])
def test_a_stage_without_the_package_says_what_to_install(root: Path, stage: str) -> None:
    program = root / "model_repository" / f"rt4ksr_{stage}" / "1" / "model.py"

    ended = subprocess.run(
        [sys.executable, "-I", "-S", program], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert "the image endpoint needs rt4ksr_server: install rt4ksr-triton" in ended.stderr


def test_the_stages_import_only_what_they_need() -> None:
    program = (
        "import json, sys, types\n"
        "sys.modules['triton_python_backend_utils'] = types.ModuleType('pb')\n"
        "import rt4ksr_server.stages.decode, rt4ksr_server.stages.encode\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    loaded = set(json.loads(printed))
    assert {"numpy", "PIL"} <= loaded
    assert not {"grpc", "google", "tritonclient", "click", "rich", "onnxruntime"} & loaded
