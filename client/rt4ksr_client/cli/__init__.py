"""The ``rt4ksr`` command."""
