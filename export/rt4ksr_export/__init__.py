"""Weights to a served model: fuse, build the ONNX graphs, verify, write the model repository.

>>> from rt4ksr_client.contract import MODELS
>>> from rt4ksr_export import export_model, load_network
>>> export_model(load_network("rt4ksr_x2.pth"), MODELS["rt4ksr_x2"], "repo")  # doctest: +SKIP
"""

import logging

from rt4ksr_export.checkpoint import load_network, packaged_weights, save_network, weights_sha256
from rt4ksr_export.fusion import fuse
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import RT4KSR, Architecture, FusedRT4KSR
from rt4ksr_export.repository import Export, export_model
from rt4ksr_export.verification import (
    Agreement,
    HalfAgreement,
    HalfTolerance,
    Tolerance,
    verify,
    verify_half,
)

__all__ = [
    "RT4KSR",
    "Agreement",
    "Architecture",
    "Export",
    "FusedRT4KSR",
    "HalfAgreement",
    "HalfTolerance",
    "Precision",
    "Tolerance",
    "build_graph",
    "export_model",
    "fuse",
    "load_network",
    "packaged_weights",
    "save_network",
    "verify",
    "verify_half",
    "weights_sha256",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
