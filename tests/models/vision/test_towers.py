"""Values and input gradients of more architectures against torch, random weights."""

import pytest
from torch_models import agree, from_timm, from_transformers, noise, ours, theirs

from reprojax.models import load

pytestmark = pytest.mark.verify

NEXT = dict(depths=[1, 2, 1, 1], num_labels=5)
WIDE = dict(hidden_sizes=[8, 12, 16, 24])
TIMM_NEXT = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 24), num_classes=5)
TRANSFORMERS = {
    "ConvNext": (64, NEXT | WIDE),
    "ConvNext, no layer scale": (64, NEXT | WIDE | dict(layer_scale_init_value=0.0)),
    "ConvNext, three stages": (
        32,
        dict(num_stages=3, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_labels=5),
    ),
    "ConvNext, no head": (64, NEXT | WIDE),
    "ConvNextV2": (64, NEXT | WIDE),
}
TIMM = {
    "convnext_tiny": (64, TIMM_NEXT),
    "convnext_nano": (75, TIMM_NEXT),  # 1x1 convolutions; sides that do not halve
    "convnextv2_base": (64, TIMM_NEXT | dict(num_classes=0)),
    "convnextv2_femto": (64, TIMM_NEXT),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_values_and_input_gradients_of_transformers(name, tmp_path):
    size, its = TRANSFORMERS[name]
    kind, headless = name.split(",")[0], name.endswith("no head")
    head = "Model" if headless else "ForImageClassification"
    reference = from_transformers(kind, its, head, tmp_path)
    model = load(tmp_path, size=size)
    assert len(model.classes) == (0 if headless else 5)
    agree(ours(model, noise(size)), theirs(reference, noise(size)))


@pytest.mark.parametrize("name", TIMM)
def test_values_and_input_gradients_of_timm(name, tmp_path):
    size, its = TIMM[name]
    reference, _ = from_timm(name, its, tmp_path)
    model = load(tmp_path, size=size)
    assert len(model.classes) == its["num_classes"]
    agree(ours(model, noise(size)), theirs(reference, noise(size)))
