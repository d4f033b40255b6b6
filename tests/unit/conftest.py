from __future__ import annotations

import pytest


@pytest.fixture
def quick_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify exports on two small inputs: for tests of what comes before and after that."""
    from rt4ksr_export import verification

    inputs = [batch for batch in verification.verification_inputs() if batch.size < 30_000]
    assert len(inputs) >= 2
    monkeypatch.setattr(verification, "verification_inputs", lambda: iter(inputs))
