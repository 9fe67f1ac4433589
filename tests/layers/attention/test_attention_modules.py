"""nn.MultiheadAttention as it is chosen, trained, saved and watched: in PyTorch's blocks and in Lightning."""

import copy
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.layers.attention.test_attention import EMBED, HEADS, KINDS, QUERIES, Net, inputs
from tests.support.fits import fit
from ts_lightning import (
    ReferenceConfig,
    TargetSpace,
    TargetSpaceConfig,
    TargetSpaceMixin,
    TargetSpaceMonitor,
)
from ts_lightning.engine.survey.selection import select_layers


def test_a_causal_encoder_that_pads_is_what_it_was_solved_to_be():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(EMBED, HEADS, 16, dropout=0.5, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    x = inputs("self")[0]
    hidden = torch.arange(QUERIES) >= torch.tensor([[5], [3], [2], [5], [4], [1]])
    causal = nn.Transformer.generate_square_subsequent_mask(QUERIES, dtype=torch.float64)
    seen = []

    def run():
        seen.append(model(x, mask=causal, src_key_padding_mask=hidden, is_causal=True))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = TargetSpace(model, run)
        assert [name.removeprefix("layers.0.") for name in space.targets][:4] == [
            "self_attn.in_proj",
            "self_attn.out_proj",
            "linear1",
            "linear2",
        ]
        space.solve()
        torch.testing.assert_close(
            seen[-1], model.eval()(x, mask=causal, src_key_padding_mask=hidden, is_causal=True), equal_nan=True
        )


@pytest.mark.parametrize("rows", ["all", 22, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_restored(kind, rows):
    config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows))  # 22 of 30 and all 24
    torch.manual_seed(0)
    space = TargetSpace(Net(kind), inputs(kind, torch.float32), config)
    state = space.state_dict()
    again = TargetSpace(Net(kind), inputs(kind, torch.float32), config, state=state)
    for name, target in space.targets.items():
        assert torch.equal(again.targets[name], target)
    for one, other in zip(space.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_solved_stays_in_weight_space():
    """Of a class with a forward of its own a run tells (``recurrent/test_own_forwards.py``)."""

    class Other(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = nn.Sequential(
        nn.MultiheadAttention(EMBED, HEADS, kdim=4, add_bias_kv=True),
        nn.MultiheadAttention(EMBED, HEADS, add_bias_kv=True),
        nn.MultiheadAttention(EMBED, HEADS, add_zero_attn=True),
        Other(EMBED, HEADS),
        nn.Linear(3, 3),
    )
    assert [layer.name for layer in select_layers(model, TargetSpaceConfig()).layers] == [
        "3.in_proj",
        "3.out_proj",
        "4",
    ]


def test_the_projection_behind_the_heads_can_be_left_in_weight_space():
    net = Net("self")
    config = TargetSpaceConfig(exclude=["attention.out_proj"])
    space = TargetSpace(net, inputs("self", torch.float32), config)
    assert list(space.targets) == ["first.0", "attention.in_proj", "readout"]
    assert any(p is net.attention.out_proj.weight for p in space.parameters())


def test_frozen_projections():
    net = Net("self")
    net.attention.out_proj.requires_grad_(False)
    found = select_layers(net, TargetSpaceConfig(layers=["attention"]))
    assert "layer 'attention' has a frozen weight or bias beside trainable ones" in str(found.problems[0])
    chosen = select_layers(net, TargetSpaceConfig(exclude=["attention.out_proj"])).layers
    assert [layer.name for layer in chosen] == ["first.0", "attention.in_proj", "readout"]
    net.attention.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen: attention"):
        assert [layer.name for layer in select_layers(net, TargetSpaceConfig()).layers] == ["first.0", "readout"]


def test_a_projection_of_another_type_is_solved_once():
    net = Net("self")
    net.attention.out_proj = nn.Linear(EMBED, EMBED)
    names = ["first.0", "attention.in_proj", "attention.out_proj", "readout"]
    assert list(TargetSpace(net, inputs("self", torch.float32)).targets) == names


def test_two_attentions_cannot_share_a_projection():
    model = nn.ModuleList(nn.MultiheadAttention(EMBED, HEADS) for _ in range(2))
    model[1].out_proj = model[0].out_proj
    found = select_layers(model, TargetSpaceConfig(layers=["*"]))
    assert "0.out_proj.weight, 1.out_proj.weight are one parameter" in str(found.problems[0])
    assert not found.layers


def test_a_compiled_attention_has_the_names_of_one_that_is_not():
    net = Net("self")
    net.attention = torch.compile(net.attention, backend="eager")
    config = TargetSpaceConfig(exclude=["attention.out_proj"])
    assert list(TargetSpace(net, inputs("self", torch.float32), config).targets) == [
        "first.0",
        "attention.in_proj",
        "readout",
    ]


def test_a_space_that_has_ended_can_be_copied():
    space = TargetSpace(Net("to another"), inputs("to another", torch.float32))
    space.release()
    again = copy.deepcopy(space)
    for one, other in zip(space.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Lit(TargetSpaceMixin, LightningModule):
    """Learned queries that attend to a sequence."""

    def __init__(self, refresh=None, trained=lambda name: True):
        super().__init__()
        self.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=8, selection="random", refresh=refresh))
        self.trained = trained
        self.queries = nn.Parameter(torch.randn(2, EMBED))
        self.attention, self.readout = nn.MultiheadAttention(EMBED, HEADS, batch_first=True), nn.Linear(EMBED, 3)

    def forward(self, x):
        return self.readout(self.attention(self.queries.expand(len(x), -1, -1), x, x)[0].mean(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam([p for name, p in self.named_parameters() if self.trained(name)], lr=0.01)


def batches():
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(32, QUERIES, EMBED), torch.arange(32) % 3), 8)


def test_it_is_watched_while_the_reference_batch_is_renewed(tmp_path):
    monitor = TargetSpaceMonitor(1)
    run = fit(
        Lit(refresh=1), batches(), max_epochs=3, callbacks=[monitor], logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    assert float(run.callback_metrics["target_space/rank/attention.in_proj"]) > 0


def test_a_projection_that_no_optimizer_trains_stays_as_it_is():
    model = Lit(trained=lambda name: "out_proj" not in name)
    before = model.attention.out_proj.weight.detach().clone()
    with pytest.warns(UserWarning, match="no optimizer trains them: attention.out_proj"):
        fit(model, batches())
    assert list(model.target_space_engine.targets) == ["attention.in_proj", "readout"]
    assert torch.equal(model.attention.out_proj.weight, before)
