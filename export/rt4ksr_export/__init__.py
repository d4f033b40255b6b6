"""Weights to a served model: fuse, make the ONNX graph, verify, lay out the repository.

>>> from rt4ksr_client.contract import MODELS
>>> from rt4ksr_export import export_model, load_network
>>> export_model(load_network("rt4ksr_x2.pth"), MODELS["rt4ksr_x2"], "repo")  # doctest: +SKIP
"""

from rt4ksr_export.checkpoint import load_network, save_network, weights_sha256
from rt4ksr_export.fuse import fuse
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import RT4KSR, Architecture, FusedRT4KSR
from rt4ksr_export.repository import export_model
from rt4ksr_export.verify import Agreement, Tolerance, verify
from rt4ksr_export.verify_half import HalfAgreement, HalfTolerance, verify_half
from rt4ksr_export.weights import packaged_weights

__all__ = [
    "RT4KSR",
    "Agreement",
    "Architecture",
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
