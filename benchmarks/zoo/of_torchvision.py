"""Models of torchvision, small."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models as tv
from torchvision.models import detection, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers

from benchmarks.zoo.example import Example, images


def pictured(make: Callable[[], nn.Module], size: int = 32, samples: int = 4) -> Callable[[], Example]:
    return lambda: Example(make(), (images(samples, 3, size),))


def vgg() -> nn.Module:
    model = tv.VGG(make_layers([8, "M", 16, "M", 32, "M", 32, "M"]), num_classes=5)
    model.avgpool, model.classifier = (
        nn.AdaptiveAvgPool2d(2),
        nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 5)),
    )
    return model


def mobilenet_v3() -> nn.Module:
    block = partial(InvertedResidualConfig, dilation=1, width_mult=0.5)
    settings = [
        block(16, 3, 16, 16, True, "RE", 2),
        block(16, 3, 48, 24, False, "HS", 2),
        block(24, 5, 64, 24, True, "HS", 1),
    ]
    return tv.MobileNetV3(settings, last_channel=64, num_classes=5)


def efficientnet() -> nn.Module:
    block = partial(MBConvConfig, width_mult=0.5, depth_mult=0.5)
    return tv.EfficientNet(
        [block(1, 3, 1, 32, 16, 1), block(6, 3, 2, 16, 24, 2), block(6, 5, 2, 24, 40, 2)], 0.2, num_classes=5
    )


def regnet() -> nn.Module:
    return tv.RegNet(BlockParams.from_init_params(depth=5, w_0=8, w_a=9.0, w_m=2.0, group_width=8, se_ratio=0.25), 5, 8)


def googlenet() -> nn.Module:
    return tv.GoogLeNet(num_classes=5, aux_logits=True, init_weights=False)


def vit() -> nn.Module:
    return tv.VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)


def swin(**options: object) -> nn.Module:
    return tv.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=5, **options)


def maxvit() -> nn.Module:
    return tv.MaxVit((32, 32), 16, 4, [16, 16], [1, 1], 8, 0.0, num_classes=5)


def segmented(head: Callable[[], nn.Module]) -> nn.Module:
    network = tv.ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = IntermediateLayerGetter(network, {"layer2": "out"})
    return segmentation.fcn.FCN(backbone, head()) if head is fcn else segmentation.DeepLabV3(backbone, head())


def fcn() -> nn.Module:
    return segmentation.fcn.FCNHead(128, 4)


def deeplab() -> nn.Module:
    return segmentation.deeplabv3.DeepLabHead(128, 4, (2, 3))


def detected(make: Callable[[nn.Module], nn.Module]) -> Callable[[], Example]:
    def example() -> Example:
        features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1)
        )
        features.out_channels = 32
        model, size = make(features), 64
        batch = [torch.rand(3, size, size) for _ in range(2)]
        targets = [
            {"boxes": torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 50]]), "labels": torch.tensor([1, 2])} for _ in batch
        ]
        return Example(model, (batch,), lambda model: sum(model(batch, targets).values()))

    return example


def anchors() -> nn.Module:
    return detection.anchor_utils.AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))


SIZES = {"min_size": 64, "max_size": 64}


def faster_rcnn(backbone: nn.Module) -> nn.Module:
    pool = detection.faster_rcnn.MultiScaleRoIAlign(["0"], 3, 2)
    head = detection.faster_rcnn.TwoMLPHead(32 * 9, 32)
    predictor = detection.faster_rcnn.FastRCNNPredictor(32, 3)
    return detection.FasterRCNN(
        backbone, rpn_anchor_generator=anchors(), box_roi_pool=pool, box_head=head, box_predictor=predictor, **SIZES
    )


def retinanet(backbone: nn.Module) -> nn.Module:
    return detection.RetinaNet(backbone, 3, anchor_generator=anchors(), **SIZES)


def fcos(backbone: nn.Module) -> nn.Module:
    one = detection.anchor_utils.AnchorGenerator(((16,),), ((1.0,),))
    return detection.FCOS(backbone, 3, anchor_generator=one, **SIZES)


MODELS: dict[str, Callable[[], Example]] = {
    "ResNet": pictured(lambda: tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)),
    "ResNeXt": pictured(lambda: tv.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=4), 16),
    "VGG": pictured(vgg),
    "DenseNet": pictured(lambda: tv.DenseNet(8, (2, 2), 16, num_classes=5)),
    "GoogLeNet": pictured(googlenet, 64, 2),
    "SqueezeNet": pictured(lambda: tv.SqueezeNet("1_1", num_classes=5)),
    "ShuffleNet V2": pictured(lambda: tv.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 64], num_classes=5)),
    "MNASNet": pictured(lambda: tv.MNASNet(0.25, num_classes=5)),
    "MobileNet V2": pictured(lambda: tv.MobileNetV2(5, 0.25)),
    "MobileNet V3": pictured(mobilenet_v3),
    "EfficientNet": pictured(efficientnet),
    "RegNet": pictured(regnet),
    "ConvNeXt": pictured(lambda: tv.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=5)),
    "ViT": pictured(vit, 16),
    "Swin": pictured(swin),
    "Swin V2": pictured(partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)),
    "MaxViT": pictured(maxvit),
    "FCN": pictured(partial(segmented, fcn)),
    "DeepLab V3": pictured(partial(segmented, deeplab)),
    "Faster R-CNN": detected(faster_rcnn),
    "RetinaNet": detected(retinanet),
    "FCOS": detected(fcos),
}
