"""The programs in ``examples/`` and the Python of the README, run as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.contract import MODELS
from rt4ksr_server import TritonServer
from support.servers import RepositoryFactory, ServerFactory
from support.videos import make_video, uneven


def run(root: Path, program: str, *arguments: object) -> str:
    starter = [] if program.endswith(".sh") else [sys.executable]
    result = subprocess.run(
        [*starter, str(root / "examples" / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def doubled(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frame.repeat(2, axis=-3).repeat(2, axis=-2)


def test_a_picture(root: Path, nearest_server: TritonServer, tmp_path: Path) -> None:
    frame = noise(30, 41, 3)
    Image.fromarray(frame).save(tmp_path / "in.png")

    printed = run(
        root, "picture.py", tmp_path / "in.png", tmp_path / "out.png", nearest_server.grpc_url
    )

    assert "82x60" in printed
    with Image.open(tmp_path / "out.png") as large:
        np.testing.assert_array_equal(np.asarray(large), doubled(frame))


def test_an_error_is_one_line(root: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            str(root / "examples" / "picture.py"),
            str(tmp_path / "none.jpg"),
            "x.png",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_with_asyncio(root: Path, nearest_server: TritonServer, tmp_path: Path) -> None:
    for index in range(6):
        Image.fromarray(noise(20, 20 + index, 3)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")

    run(root, "folder_asyncio.py", tmp_path, tmp_path / "large", nearest_server.grpc_url)

    sizes = {}
    for path in (tmp_path / "large").iterdir():
        with Image.open(path) as large:
            sizes[path.name] = large.size
    assert sizes == {f"{index}.jpg": (40 + 2 * index, 40) for index in range(6)}


def test_a_video_with_opencv(root: Path, nearest_server: TritonServer, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    writer = cv2.VideoWriter(
        str(tmp_path / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48)
    )
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (30, 40, 200), np.uint8))  # BGR: red
    writer.release()

    run(
        root,
        "video_opencv.py",
        tmp_path / "in.mp4",
        tmp_path / "out.mp4",
        nearest_server.grpc_url,
    )

    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    capture.release()
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 10
    blue, green, red = frames[5][48, 64]
    assert red > 150 > 80 > max(blue, green)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_a_video_as_planes_with_pyav(
    root: Path,
    server_with: ServerFactory,
    nearest_repository: RepositoryFactory,
    tmp_path: Path,
    pixel_format: str,
) -> None:
    source = make_video(tmp_path / "in.mkv", frames=10, when=uneven, pixel_format=pixel_format)
    models = [MODELS["rt4ksr_x2_video"], MODELS["rt4ksr_x2_video16"]]

    with server_with(nearest_repository(models)) as server:
        run(root, "video_planes.py", source, tmp_path / "out.mkv", server.grpc_url)

    with av.open(str(source)) as small, av.open(str(tmp_path / "out.mkv")) as large:
        before, after = list(small.decode(video=0)), list(large.decode(video=0))
    assert [frame.time for frame in after] == [frame.time for frame in before]
    assert {(f.width, f.height, f.format.name) for f in after} == {(128, 96, pixel_format)}
    assert {int(frame.colorspace) for frame in after} == {1}


def test_numpy_frames_on_two_servers(
    root: Path, nearest_server: TritonServer, endpoint_server: TritonServer, tmp_path: Path
) -> None:
    frames = noise(12, 20, 32, 3)
    np.save(tmp_path / "in.npy", frames)
    urls = f"{nearest_server.grpc_url},{endpoint_server.grpc_url}"

    run(root, "two_servers.py", tmp_path / "in.npy", tmp_path / "out.npy", urls)

    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), doubled(frames))


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp"])
def test_the_endpoint_with_curl(
    root: Path, endpoint_server: TritonServer, tmp_path: Path, format_name: str
) -> None:
    Image.fromarray(noise(20, 32, 3)).save(tmp_path / "in.png")

    run(
        root,
        "endpoint.sh",
        tmp_path / "in.png",
        tmp_path / "out",
        format_name,
        endpoint_server.http_url,
    )

    with Image.open(tmp_path / "out") as large:
        assert (large.format, large.size) == (format_name.upper(), (64, 40))


def test_the_endpoint_explains_an_error(
    root: Path, endpoint_server: TritonServer, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_text("not a picture")
    result = subprocess.run(
        [
            root / "examples" / "endpoint.sh",
            tmp_path / "in.png",
            tmp_path / "out",
            "png",
            endpoint_server.http_url,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )

    assert result.returncode == 1
    assert "picture" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_the_python_of_the_readme_makes_a_picture(
    root: Path, nearest_server: TritonServer, photograph: Path, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert "127.0.0.1:8001" in program
    with Image.open(photograph) as image:
        image.resize((64, 36)).save(tmp_path / "in.jpg")

    subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:8001", nearest_server.grpc_url)],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )

    with Image.open(tmp_path / "out.png") as large:
        assert large.size == (128, 72)
