from __future__ import annotations

import onnx
import pytest


@pytest.fixture
def quick_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify exports on two small inputs: for tests of what comes before and after that."""
    from rt4ksr_export import verification

    every = verification.verification_inputs

    def small(model: onnx.ModelProto) -> list[verification.Batch]:
        found = [batch for batch in every(model) if next(iter(batch.values())).size < 30_000]
        assert len(found) >= 2
        return found

    monkeypatch.setattr(verification, "verification_inputs", small)
