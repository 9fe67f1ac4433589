"""Gradients of library models against finite differences, in float64, solves included.

    python -m benchmarks.zoo.gradients

prints the error of each model, relative to the gradients' norm, and ends with 1 if one is not below 1e-6. Models of a
library that is not installed are left out. Differences say nothing of these, which are not among them:

- models that compute in float32 whatever they are given (the norms of Llama and T5, the softmax of OPT), or whose loss
  is not smooth along the difference (many ReLUs, routing, detectors);
- models of which a part is detached (the norms of DoRA);
- models with a layer whose inputs are zero at the start (AdaLoRA, an adapter of a table): a ridge in units of the
  inputs' variance is zero there, too, and the solve has a kink. With ``ridge_scale="absolute"`` it is smooth, and a
  small model of this kind agrees (tests/engine/test_anchor.py).
"""

from __future__ import annotations

import sys

from benchmarks.zoo.__main__ import models
from benchmarks.zoo.check import gradient_error

BOUND = 1e-6
#: library, model: what of its layers is special
CHOSEN = {
    ("own", "U-Net"): "transposed convolutions",
    ("own", "DCGAN"): "transposed convolutions",
    ("torchvision", "EfficientNet"): "grouped convolutions",
    ("torchvision", "ConvNeXt"): "grouped convolutions",
    ("torchvision", "Swin"): "weights applied by functions",
    ("torchvision", "FCN"): "dilated convolutions",
    ("timm", "BEiT"): "weights applied by functions",
    ("timm", "CoaT"): "layers used several times",
    ("transformers", "BERT"): "tied to a table",
    ("transformers", "ALBERT"): "layers used several times",
    ("transformers", "GPT-2"): "weights (in, out) applied by functions",
    ("transformers", "BART"): "encoder and decoder",
    ("transformers", "Whisper"): "convolutions on sound, encoder and decoder",
    ("peft", "LoRA on GPT-2"): "adapters of a frozen base",
    ("pyg", "GAT"): "graph attention",
    ("pyg", "heterogeneous SAGE"): "layers used several times",
    ("pyg", "relational GCN"): "parts of one parameter",
    ("pyg", "gated graph"): "parts of one parameter",
    ("pyg", "ARMA"): "parts of one parameter",
}


def main() -> int:
    errors = {}
    for library, name, make in models():
        if (library, name) in CHOSEN:
            errors[library, name] = gradient_error(make)
            print(f"{library:13}{name:20}{errors[library, name]:9.1e}  {CHOSEN[library, name]}", flush=True)
    far = [name for (_, name), error in errors.items() if not error < BOUND]
    print(f"{len(errors)} of {len(CHOSEN)} models; not below {BOUND:g}: {', '.join(far) or 'none'}", file=sys.stderr)
    return bool(far)


if __name__ == "__main__":
    sys.exit(main())
