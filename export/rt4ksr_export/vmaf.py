"""VMAF, Netflix's score of how video looks, by an ``ffmpeg`` program with libvmaf on PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Yuv420

__all__ = ["Vmaf"]


class Vmaf:
    """VMAF of clips, by libvmaf's default model; :attr:`missing` says why there is none."""

    @cached_property
    def program(self) -> str | None:
        """Path of ``ffmpeg``; None where there is none."""
        return shutil.which("ffmpeg")

    @cached_property
    def missing(self) -> str:
        """Why there is no score, as a sentence; empty where there is one."""
        if self.program is None:
            return "there is no program ffmpeg on PATH"
        listed = subprocess.run(
            [self.program, "-hide_banner", "-filters"], capture_output=True, text=True, check=False
        )
        if " libvmaf " not in listed.stdout:
            return f"{self.program} was built without libvmaf"
        return ""

    def __call__(self, reference: Sequence[Yuv420], clip: Sequence[Yuv420]) -> float | None:
        """Return the mean over the frames, 0 to 100; None if :attr:`missing`.

        Args:
            reference: of 8 bits and one size, sides even.
            clip: the same.

        Raises:
            VideoError: ffmpeg failed; the text has its last line.

        """
        if self.missing:
            return None
        height, width = reference[0].luma.shape
        with tempfile.TemporaryDirectory() as folder:
            inputs = []
            for name, frames in (("clip", clip), ("reference", reference)):
                Path(folder, name).write_bytes(b"".join(map(planar, frames)))
                inputs += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}"]
                inputs += ["-i", name]
            command = [
                *(str(self.program), "-nostdin", "-v", "error", *inputs),
                *("-lavfi", "libvmaf=log_fmt=json:log_path=vmaf.json", "-f", "null", "-"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            try:
                pooled = json.loads(Path(folder, "vmaf.json").read_bytes())["pooled_metrics"]
                return float(pooled["vmaf"]["mean"])
            except (OSError, ValueError, KeyError) as exc:
                said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise VideoError(f"{self.program} gave no VMAF: {said[-1]}") from exc


def planar(frame: Yuv420) -> bytes:
    """Return the bytes of ``yuv420p``."""
    return b"".join(p.tobytes() for p in (frame.luma, frame.chroma[..., 0], frame.chroma[..., 1]))
