"""Adapters of PEFT on models of transformers: the base is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft

from benchmarks.zoo.example import Example
from benchmarks.zoo.of_transformers import MODELS as BASES


def adapted(base: str, kind: str, **settings: Any) -> Callable[[], Example]:
    """The model ``base`` with adapters."""

    def example() -> Example:
        model, arguments, loss = BASES[base]()
        return Example(peft.get_peft_model(model, getattr(peft, kind)(**settings)), arguments, loss)

    return example


LLAMA = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}

MODELS: dict[str, Callable[[], Example]] = {
    "LoRA on Llama": adapted("Llama", "LoraConfig", r=4, **LLAMA),
    "LoRA on GPT-2": adapted("GPT-2", "LoraConfig", r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    "LoRA on BERT": adapted(
        "BERT, classifier", "LoraConfig", r=4, target_modules=["query", "value"], modules_to_save=["classifier"]
    ),
    "LoRA and a table": adapted("OPT", "LoraConfig", r=4, target_modules=["q_proj", "embed_tokens"]),
    "rsLoRA on T5": adapted("T5", "LoraConfig", r=4, use_rslora=True, target_modules=["q", "v"]),
    "DoRA on Llama": adapted("Llama", "LoraConfig", r=4, use_dora=True, **LLAMA),
    "AdaLoRA on Llama": adapted("Llama", "AdaLoraConfig", init_r=4, target_r=2, total_step=100, **LLAMA),
    "LoHa on Llama": adapted("Llama", "LoHaConfig", r=4, **LLAMA),
    "bottleneck of IA3": adapted(
        "Llama", "IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "prompts on Llama": adapted(
        "Llama", "PromptEncoderConfig", task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16
    ),
}
