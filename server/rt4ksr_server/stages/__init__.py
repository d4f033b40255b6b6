"""The two ends of the image endpoint, as Python models of Triton: encoded pictures in and out.

:mod:`~rt4ksr_server.stages.decode` and :mod:`~rt4ksr_server.stages.encode` are what
``model_repository/rt4ksr_decode`` and ``rt4ksr_encode`` load. What a picture is made of, and how it
is read and written, is the client's code (:mod:`rt4ksr_client.pictures`,
:mod:`rt4ksr_client.files`). The rest is this server's: what it takes
(:mod:`~rt4ksr_server.stages.inspection`), what a request may ask for
(:mod:`~rt4ksr_server.stages.encoding`), and what travels around the network
(:mod:`~rt4ksr_server.stages.sidecar`). Runs inside Triton's Python stub: needs numpy and Pillow.
"""
