"""Models of timm, small."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from timm import models as tm
from timm.layers import StdConv2d
from timm.models import byobnet, nfnet
from torch import nn

from benchmarks.zoo.example import Example, images


def pictured(make: Callable[[], nn.Module], size: int = 32, samples: int = 4) -> Callable[[], Example]:
    return lambda: Example(make(), (images(samples, 3, size),))


VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}


def beit() -> nn.Module:
    return tm.beit.Beit(**VIT, use_rel_pos_bias=True, init_values=0.1, use_abs_pos_emb=False)


def nf_resnet() -> nn.Module:
    settings = nfnet.NfCfg(
        depths=(1, 1), channels=(16, 32), stem_type="3x3", stem_chs=16, std_conv_eps=1e-5, act_layer="relu", alpha=0.2
    )
    return nfnet.NormFreeNet(settings, num_classes=5)


def bit() -> nn.Module:
    return tm.resnetv2.ResNetV2([1, 1], (128, 128), num_classes=5, stem_chs=32, stem_type="same", conv_layer=StdConv2d)


def resnet(**options: object) -> nn.Module:
    return tm.resnet.ResNet(tm.resnet.Bottleneck, (1, 1, 1, 1), num_classes=5, channels=(8, 16, 16, 32), **options)


def repvgg() -> nn.Module:
    settings = byobnet.ByoModelCfg(
        blocks=tuple(byobnet.ByoBlockCfg(type="rep", d=1, c=c, s=2, gs=0) for c in (16, 32)),
        stem_type="rep",
        stem_chs=16,
    )
    return byobnet.ByobNet(settings, num_classes=5)


def coat() -> nn.Module:
    return tm.coat.CoaT(
        32, 4, num_classes=5, embed_dims=(16, 16, 16, 16), serial_depths=(1, 1, 1, 1), parallel_depth=1, num_heads=8,
        mlp_ratios=(2, 2, 2, 2),
    )  # fmt: skip


MODELS: dict[str, Callable[[], Example]] = {
    "BEiT": pictured(beit, 16),
    "DeiT, distilled": pictured(lambda: tm.deit.VisionTransformerDistilled(**VIT), 16),
    "CaiT": pictured(lambda: tm.cait.Cait(**VIT), 16),
    "EVA": pictured(lambda: tm.eva.Eva(**VIT, use_rot_pos_emb=True, swiglu_mlp=True), 16),
    "NF-ResNet": pictured(nf_resnet),
    "BiT": pictured(bit),
    "RepVGG": pictured(repvgg),
    "MLP-Mixer": pictured(
        lambda: tm.mlp_mixer.MlpMixer(img_size=16, patch_size=4, embed_dim=24, num_blocks=2, num_classes=5), 16
    ),
    "gMLP": pictured(
        lambda: tm.mlp_mixer.MlpMixer(
            img_size=16,
            patch_size=4,
            embed_dim=24,
            num_blocks=2,
            num_classes=5,
            mlp_ratio=4,
            block_layer=tm.mlp_mixer.SpatialGatingBlock,
            mlp_layer=tm.mlp_mixer.GatedMlp,
        ),
        16,
    ),
    "ConvMixer": pictured(lambda: tm.convmixer.ConvMixer(dim=24, depth=2, kernel_size=5, patch_size=4, num_classes=5)),
    "PoolFormer": pictured(lambda: tm.metaformer.MetaFormer(depths=(1, 1), dims=(16, 32), num_classes=5), 32),
    "CoaT": pictured(coat),
    "XCiT": pictured(
        lambda: tm.xcit.Xcit(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, cls_attn_layers=1, num_classes=5
        )
    ),
    "LeViT": pictured(
        lambda: tm.levit.Levit(
            img_size=64, num_classes=5, embed_dim=(16, 32), key_dim=8, depth=(1, 1), num_heads=(2, 2)
        ),
        64,
    ),
    "Nest": pictured(
        lambda: tm.nest.Nest(
            img_size=32, patch_size=2, num_levels=2, embed_dims=(16, 32), num_heads=(2, 2), depths=(1, 1), num_classes=5
        )
    ),
    "Twins": pictured(
        lambda: tm.twins.Twins(
            img_size=64,
            patch_size=2,
            embed_dims=(16, 32),
            num_heads=(2, 2),
            mlp_ratios=(2, 2),
            depths=(1, 1),
            sr_ratios=(4, 2),
            wss=(4, 4),
            num_classes=5,
        ),
        64,
    ),
    "EdgeNeXt": pictured(
        lambda: tm.edgenext.EdgeNeXt(
            dims=(16, 16, 32, 32),
            depths=(1, 1, 1, 1),
            global_block_counts=(0, 1, 1, 1),
            kernel_sizes=(3, 3, 3, 3),
            heads=(4, 4, 4, 4),
            num_classes=5,
        )
    ),
    "Res2Net": pictured(partial(resnet, base_width=8)),
    "Hiera": pictured(
        lambda: tm.hiera.Hiera(img_size=(32, 32), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), num_classes=5)
    ),
    "CrossViT": pictured(
        lambda: tm.crossvit.CrossVit(
            img_size=32,
            img_scale=(1.0, 1.0),
            patch_size=(4, 8),
            embed_dim=(16, 16),
            depth=((1, 1, 0),),
            num_heads=(2, 2),
            mlp_ratio=(2.0, 2.0, 1.0),
            num_classes=5,
        )
    ),
}
