"""The two ends of the image endpoint, as Python models of Triton: encoded pictures in and out.

:mod:`~rt4ksr_server.stages.decode` and :mod:`~rt4ksr_server.stages.encode` are what
``model_repository/rt4ksr_decode`` and ``rt4ksr_encode`` load. They read and write pictures with the
client's code (:mod:`rt4ksr_client.pictures`, :mod:`rt4ksr_client.files`), and add what a server
needs: limits (:mod:`~rt4ksr_server.stages.inspection`), the choice of a format
(:mod:`~rt4ksr_server.stages.encoding`), and what bypasses the network
(:mod:`~rt4ksr_server.stages.sidecar`). They run inside Triton's Python stub and need numpy and
Pillow.
"""
