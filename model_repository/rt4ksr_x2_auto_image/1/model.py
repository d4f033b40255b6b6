"""The image endpoint's choose stage; its code is in rt4ksr-triton."""

try:
    from rt4ksr_server.stages.choose import TritonPythonModel
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"the image endpoint needs {missing.name}: install rt4ksr-triton with pip for the "
        "python3 that tritonserver runs, or load other models only "
        "(--model-control-mode=explicit --load-model=rt4ksr_x2)"
    ) from missing

__all__ = ["TritonPythonModel"]
