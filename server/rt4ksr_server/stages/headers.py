"""Whether tritonserver shows its models the HTTP headers that choose how an answer is encoded."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rt4ksr_client.contract import PictureParameter

__all__ = ["FORWARD_FLAG", "NAMES", "ignores_headers", "parent_ignores_headers"]

FORWARD_FLAG: Final = "--http-header-forward-pattern"
NAMES: Final = (PictureParameter.FORMAT, PictureParameter.QUALITY)
"""The headers, and the request parameters that they become."""


def parent_ignores_headers() -> bool:
    """Whether the tritonserver that runs this stage serves HTTP and forwards no such header.

    A header that is not forwarded looks like none, so its own command line is asked. False if that
    cannot be read, or if the server is part of another program.
    """
    parent = Path("/proc") / str(os.getppid())
    try:
        program, *arguments = (parent / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except (OSError, UnicodeDecodeError):
        return False
    return Path(program).name == "tritonserver" and ignores_headers(arguments)


def ignores_headers(arguments: Sequence[str]) -> bool:
    """Whether a tritonserver with these arguments serves HTTP and forwards no such header."""
    # `--name=value` or `--name value`; the last one counts.
    words = [word for argument in arguments for word in argument.split("=", 1)]
    values = dict(itertools.pairwise(words))
    if values.get("--allow-http", "true").lower() in ("false", "off", "0"):
        return False
    pattern = values.get(FORWARD_FLAG, "")
    try:
        return not pattern or not all(re.search(pattern, name) for name in NAMES)
    except re.error:  # RE2, which tritonserver uses, knows more of them
        return False
