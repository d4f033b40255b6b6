"""The subcommands ``rt4ksr export``, ``rt4ksr train`` and ``rt4ksr evaluate``."""
