"""Griffe extension: ``:class:`~package.Name``` in docstrings becomes a link to that name."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|attr|data|func|mod|exc):`(~?)([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """Replaces each role by a link that is plain code where the name has no page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(role, obj), obj.docstring.value)


def _link(role: re.Match[str], obj: griffe.Object) -> str:
    shortened, name = role.groups()
    shown = name.rpartition(".")[2] if shortened else name
    try:
        target = obj.resolve(name)
    except griffe.NameResolutionError:
        target = name
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'
