"""Models of transformers, small, with vocabularies of WORDS words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import nn

from benchmarks.zoo.example import Example, images

#: words and width: a table is to the other weights as in the real models of that kind
WORDS, WIDTH = 64, 32

_SIZES = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH,
    "vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 16,
}  # fmt: skip
_NO_DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "dropout",
    "activation_dropout",
)


def made(kind: str, config: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model of transformers by its name and the name of its configuration."""
    model: nn.Module = getattr(hf, kind)(getattr(hf, config)(**settings))
    return model


def text(
    kind: str, config: str, decoded: bool = False, steps: int = 8, sizes: Mapping[str, Any] = _SIZES, **settings: Any
) -> Callable[[], Example]:
    """A model of words; ``decoded`` says whether it has a decoder with an input of its own."""

    def example() -> Example:
        batch = {"input_ids": torch.randint(3, WORDS, (6, steps))}
        if decoded:
            batch["decoder_input_ids"] = torch.randint(3, WORDS, (6, steps - 2))
        return Example(made(kind, config, {**sizes, **settings}), batch)

    return example


def sound(kind: str, config: str, **settings: Any) -> Callable[[], Example]:
    """A model of samples of sound."""
    return lambda: Example(made(kind, config, {**_SIZES, **settings}), {"input_values": torch.randn(3, 800)})


def pictures(
    kind: str, config: str, size: int = 16, sizes: Mapping[str, Any] = _SIZES, **settings: Any
) -> Callable[[], Example]:
    """A model of images."""
    settings = {"image_size": size, "patch_size": 4, "num_labels": 3, **settings}
    return lambda: Example(made(kind, config, {**sizes, **settings}), {"pixel_values": images(4, 3, size)})


def whisper() -> Example:
    settings = {
        **_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16,
        "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
    }  # fmt: skip
    model = made("WhisperForConditionalGeneration", "WhisperConfig", settings)
    return Example(
        model, {"input_features": torch.randn(4, 8, 32), "decoder_input_ids": torch.randint(3, WORDS, (4, 6))}
    )


def clip() -> Example:
    inner = {**_SIZES, "projection_dim": 16}
    vision = {**inner, "image_size": 16, "patch_size": 4}
    model = made("CLIPModel", "CLIPConfig", {"text_config": inner, "vision_config": vision, "projection_dim": 16})
    return Example(model, {"input_ids": torch.randint(3, WORDS, (4, 8)), "pixel_values": images(4, 3, 16)})


_BART = {
    "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 4 * WIDTH, "decoder_ffn_dim": 4 * WIDTH, "vocab_size": WORDS,
    "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_T5 = {
    "vocab_size": WORDS, "d_model": WIDTH, "d_kv": 16, "d_ff": 4 * WIDTH, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 1, "head_dim": 16}
_EXPERTS = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
_STATES = {"state_size": 4, "expand": 2, "conv_kernel": 4, "time_step_rank": 2}
_SPEECH = {
    "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer",
    "mask_time_prob": 0.0, "layerdrop": 0.0,
}  # fmt: skip
_SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [3, 3],
    "strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip

MODELS: dict[str, Callable[[], Example]] = {
    "BERT": text("BertForMaskedLM", "BertConfig"),
    "BERT, classifier": text("BertForSequenceClassification", "BertConfig"),
    "RoBERTa": text("RobertaForMaskedLM", "RobertaConfig"),
    "DistilBERT": text("DistilBertForMaskedLM", "DistilBertConfig", dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=128),
    "ELECTRA": text("ElectraForPreTraining", "ElectraConfig", embedding_size=16),
    "ALBERT": text("AlbertForMaskedLM", "AlbertConfig", embedding_size=16),
    "DeBERTa": text("DebertaForMaskedLM", "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "DeBERTa V2": text("DebertaV2ForMaskedLM", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "XLNet": text(
        "XLNetLMHeadModel", "XLNetConfig", sizes={"vocab_size": WORDS}, d_model=WIDTH, n_layer=2, n_head=2, d_inner=128
    ),
    "GPT-2": text("GPT2LMHeadModel", "GPT2Config"),
    "GPT-Neo": text(
        "GPTNeoForCausalLM", "GPTNeoConfig", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    ),
    "GPT-NeoX": text("GPTNeoXForCausalLM", "GPTNeoXConfig"),
    "GPT-J": text("GPTJForCausalLM", "GPTJConfig", n_embd=WIDTH, n_layer=2, n_head=2, rotary_dim=8, n_positions=16),
    "OPT": text("OPTForCausalLM", "OPTConfig", ffn_dim=128, word_embed_proj_dim=16),
    "Bloom": text("BloomForCausalLM", "BloomConfig", n_layer=2, n_head=2),
    "Falcon": text("FalconForCausalLM", "FalconConfig"),
    "Llama": text("LlamaForCausalLM", "LlamaConfig", **_GROUPED),
    "Mistral": text("MistralForCausalLM", "MistralConfig", **_GROUPED),
    "Qwen2": text("Qwen2ForCausalLM", "Qwen2Config", **_GROUPED),
    "Gemma": text("GemmaForCausalLM", "GemmaConfig", **_GROUPED),
    "Phi": text("PhiForCausalLM", "PhiConfig"),
    "Mixtral": text("MixtralForCausalLM", "MixtralConfig", **_EXPERTS),
    "Switch": text(
        "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", True, sizes=_T5, num_experts=2
    ),
    "Mamba": text("MambaForCausalLM", "MambaConfig", **_STATES),
    "Mamba 2": text(
        "Mamba2ForCausalLM", "Mamba2Config", state_size=4, num_heads=4, head_dim=16, n_groups=1, chunk_size=4
    ),
    "RWKV": text("RwkvForCausalLM", "RwkvConfig", attention_hidden_size=WIDTH, context_length=16, use_cache=False),
    "T5": text("T5ForConditionalGeneration", "T5Config", True, sizes=_T5),
    "BART": text("BartForConditionalGeneration", "BartConfig", True, sizes=_BART),
    "Marian": text("MarianMTModel", "MarianConfig", True, sizes=_BART, decoder_start_token_id=0),
    "Whisper": whisper,
    "wav2vec 2": sound("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", **_SPEECH, classifier_proj_size=16),
    "CLIP": clip,
    "ViT, MAE's": pictures("ViTForImageClassification", "ViTConfig"),
    "BEiT of transformers": pictures("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True),
    "SegFormer": pictures("SegformerForSemanticSegmentation", "SegformerConfig", 32, _SEGFORMER, patch_size=None),
    "Swin of transformers": pictures(
        "SwinForImageClassification",
        "SwinConfig",
        sizes={},
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
}
