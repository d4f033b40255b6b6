"""Weights to a served model: fuse, make the ONNX graph, verify, lay out the repository."""
