"""PyTorch's fused update of AdamW."""

import pytest
from optimizer_helpers import (
    BACKEND,
    DECAYED,
    GRADIENTS,
    SCALES,
    SHAPES,
    START,
    STEPS,
    assert_close,
    numpy_adamw,
    train,
)

from keras_mae.optimizers import AdamW

# === PyTorch's fused update ===
needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="the fused update is PyTorch's")


@pytest.fixture
def fused_calls(monkeypatch):
    """The number of variables of every call of the fused update."""
    from keras_mae.optimizers import adamw

    calls, fused = [], adamw.fused_adamw

    def spy(gradients, variables, *args, **kwargs):
        calls.append(len(variables))
        return fused(gradients, variables, *args, **kwargs)

    monkeypatch.setattr(adamw, "fused_adamw", spy)
    return calls


@needs_torch
def test_the_fused_update_is_taken_once_for_each_decay(fused_calls):
    train(AdamW(0.02), GRADIENTS[:2])
    assert fused_calls == [1, 2] * 2  # the bias, and what is decayed


@needs_torch
def test_the_fused_update_is_taken_once_for_each_scale(fused_calls):
    """Not once for each variable, though the variables of one scale are not neighbours."""
    train(AdamW(0.02, learning_rate_scales=[0.5, 1.0, 0.5], decayed=[True, True, True]), GRADIENTS[:1])
    assert fused_calls == [2, 1]


@needs_torch
@pytest.mark.parametrize("options", [{}, {"learning_rate_scales": SCALES}, {"amsgrad": True}], ids=str)
def test_fused_and_unfused_updates_agree(fused_calls, options):
    sizes = {"learning_rate": 0.02, "weight_decay": 0.5, "epsilon": 0.01, **options}
    unfused = AdamW(**sizes)
    unfused._fused = False
    expected = train(unfused)
    assert fused_calls == []
    assert_close(train(AdamW(**sizes)), expected)
    assert sum(fused_calls) == len(SHAPES) * STEPS


@needs_torch
@pytest.mark.parametrize("amsgrad", [False, True], ids=["plain", "amsgrad"])
def test_the_update_is_pytorchs(amsgrad):
    """A large `epsilon`; and gradients that shrink, or the largest second moment would be the last."""
    import torch

    gradients = [{name: value / step**2 for name, value in each.items()} for step, each in enumerate(GRADIENTS, 1)]
    sizes = {"weight_decay": 0.5, "amsgrad": amsgrad}
    values = {name: torch.tensor(value) for name, value in START.items()}
    groups = [
        {"params": [value for name, value in values.items() if (name in DECAYED) == decays], **options}
        for decays, options in ((True, {}), (False, {"weight_decay": 0.0}))
    ]
    theirs = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=0.01, **sizes)
    for step in gradients:
        for name, value in values.items():
            value.grad = torch.tensor(step[name])
        theirs.step()
    assert_close(train(AdamW(0.02, epsilon=0.01, **sizes), gradients), values)
    if not amsgrad:
        assert_close(values, numpy_adamw(gradients, 0.02, 0.5, 0.9, 0.95, 0.01))


@needs_torch
def test_the_fused_update_goes_into_a_compiled_step(fused_calls):
    import torch

    compiled = torch.compile(train, backend="aot_eager")  # what fails does so before code is generated
    assert_close(compiled(AdamW(0.02)), train(AdamW(0.02)))
    assert fused_calls == [1, 2] * 2 * STEPS
