"""Options of load tests without Locust, which would patch the whole test process."""

from __future__ import annotations

import argparse
from typing import Any

from rt4ksr_loadtest.options import LoadOptions, add_arguments, read_options


class FormParser(argparse.ArgumentParser):
    """What matters here of Locust's parser: which arguments its web form has."""

    def __init__(self) -> None:
        self.form: set[str] = set()
        self.help: dict[str, str] = {}
        super().__init__()
        self.add_argument("-u", "--users", dest="num_users", type=int)
        add_arguments(self)

    def add_argument(self, *names: Any, include_in_web_ui: bool = True, **rest: Any) -> Any:
        action = super().add_argument(*names, **rest)
        if include_in_web_ui:
            self.form.add(action.dest)
        self.help[action.dest] = action.help or ""
        return action


def parse_options(*words: str, parsed: argparse.Namespace | None = None) -> LoadOptions:
    """Return the options of a command line, or of what was parsed already."""
    return read_options(parsed or FormParser().parse_args([*words]), "127.0.0.1:8001")
