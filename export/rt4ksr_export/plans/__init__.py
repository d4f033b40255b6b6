"""TensorRT plans out of the exported ONNX graphs: profiles, building, identity, comparison."""
