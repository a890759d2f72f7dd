"""Networks that users have: whatever layers and functions of torch they call, mapped and differentiated twice."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, parametrizations, prune, weight_norm
from torchvision.models import VisionTransformer, resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from mlcore import IMAML, MAML, MetaTransfer, ProtoNet, classification, conv4, mlp
from mlcore.nets import LSTMCell, TransformerEncoder, as_torch, batch_norms, right_derivatives, written_out
from mlcore.nets.derivatives import attention
from mlcore.objective import cross_entropy
from mlcore.task import Examples, Task, rows

TASKS, ROWS, WAYS = 3, 6, 3


class Rows(nn.Module):
    """Token ids [n, length] or images [n, channels, height, width] to vectors: the mean over the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1) if x.dim() > 3 else x.mean(1)


class CallsLayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(5)), nn.Parameter(torch.rand(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(F.layer_norm(x, (5,), self.scale, self.shift).sin(), (5,), self.shift)


class CallsChannelNorms(CallsLayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.instance_norm(x, weight=self.scale, bias=self.shift).sin()
        x = torch.instance_norm(x, self.shift, self.scale, None, None, True, 0.1, 1e-5, True).sin()
        x = F.batch_norm(x, None, None, self.scale, self.shift, training=True).sin()
        return torch.batch_norm(x, self.shift, self.scale, None, None, True, 0.1, 1e-5, True)


class CallsEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.table, padding_idx=-7) * torch.embedding(self.table, x, 1)


def _transformer(**options) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=F.softplus, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


# The layers, and what they are given.
BODIES = {
    "nn.LayerNorm": ("numbers", lambda: [nn.Linear(4, 5), nn.LayerNorm(5)]),
    "F.layer_norm": ("numbers", lambda: [nn.Linear(4, 5), CallsLayerNorm()]),
    "nn.InstanceNorm2d": ("images", lambda: [nn.Conv2d(2, 5, 3), nn.InstanceNorm2d(5, affine=True), nn.Tanh(), Rows()]),
    "channel norms": ("images", lambda: [nn.Conv2d(2, 5, 3), CallsChannelNorms(), nn.Tanh(), Rows()]),
    "nn.Embedding": ("tokens", lambda: [nn.Embedding(7, 5, padding_idx=0), Rows()]),
    "F.embedding": ("tokens", lambda: [CallsEmbedding(), Rows()]),
    "nn.Transformer": ("tokens", lambda: [nn.Embedding(7, 4, padding_idx=0), _transformer(), Rows(), nn.Linear(4, 5)]),
    "our transformer": ("tokens", lambda: [nn.Embedding(7, 4), TransformerEncoder(4, 2, 2), Rows(), nn.Linear(4, 5)]),
}


def _net(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*BODIES[name][1](), nn.Softplus(), nn.Linear(5, WAYS)).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    return net


def _batch(kind: str, dtype: torch.dtype = torch.float64) -> Task:
    shape = {"numbers": (4,), "images": (2, 6, 6), "tokens": (5,), "colour": (3, 32, 32)}[kind]
    generator = torch.Generator().manual_seed(1)
    halves = []
    for _ in range(2):
        x = torch.randn(TASKS, ROWS, *shape, dtype=dtype, generator=generator)
        if kind == "tokens":
            x = torch.randint(7, (TASKS, ROWS, *shape), generator=generator)
        halves.append(Examples(x, rows(torch.arange(ROWS) % WAYS, WAYS).to(dtype).expand(TASKS, ROWS, WAYS)))
    return Task(*halves)


def _gradient(learner, batch: Task) -> tuple[Tensor, Tensor]:
    """The losses, and the meta-gradient as one vector."""
    learner.zero_grad()
    losses = learner.meta_backward(batch, classification).losses
    return losses, torch.cat([p.grad.flatten() for p in learner.parameters()])


def _by_hand(net: nn.Module, batch: Task, lr: float) -> tuple[Tensor, Tensor]:
    """The same by autograd alone, for one inner step."""
    theta, losses = dict(net.named_parameters()), []
    with sdpa_kernel(SDPBackend.MATH):  # which has second derivatives
        for i in range(batch.count):
            (x, y), (query_x, query_y) = batch.each(lambda t, i=i: t[i])
            step = torch.autograd.grad(cross_entropy(net(x), y), list(theta.values()), create_graph=True)
            moved = {name: p - lr * g for (name, p), g in zip(theta.items(), step, strict=True)}
            losses.append(cross_entropy(functional_call(net, moved, (query_x,)), query_y))
        gradient = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    return torch.stack(losses).detach(), torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("name", BODIES)
def test_a_meta_gradient_is_the_one_by_hand(name):
    net, batch = _net(name), _batch(BODIES[name][0])
    expected = _by_hand(net, batch, 0.5)
    for mapping in ("vmap", 2, "loop"):
        torch.testing.assert_close(
            _gradient(MAML(net, inner_lr=0.5, mapping=mapping), batch), expected, rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("name", ["nn.LayerNorm", "F.layer_norm", "nn.InstanceNorm2d", "nn.Embedding"])
def test_the_trap_is_still_there(name):
    net, batch = _net(name), _batch(BODIES[name][0])
    theta = dict(net.named_parameters())

    def one(support: Examples, query: Examples) -> Tensor:
        step = grad(lambda p: cross_entropy(functional_call(net, p, (support.x,)), support.y))(theta)
        moved = {key: p - 0.5 * step[key] for key, p in theta.items()}
        return cross_entropy(functional_call(net, moved, (query.x,)), query.y)

    gradient = torch.autograd.grad(vmap(one)(*batch).mean(), list(theta.values()))
    error = (torch.cat([g.flatten() for g in gradient]) - _by_hand(net, batch, 0.5)[1]).norm().item()
    assert error > 1e-6, (
        f"vmap differentiates {name} rightly in torch {torch.__version__}: it needs no arithmetic of ours"
    )


IDS = torch.tensor([0, 1, 1, 1, 4, 4])
WRONG_TWICE = {
    "an embedding by frequency": lambda t, a: F.embedding(IDS, t, scale_grad_by_freq=True) @ a.mT,
    "weight norm": lambda t, a: torch._weight_norm(t + a, t.detach()[:, :1], 0),
}


@pytest.mark.parametrize("name", WRONG_TWICE)
def test_what_torch_differentiates_wrongly_even_without_vmap(name):
    torch.manual_seed(0)
    t, a, u = torch.randn(3, 7, 5, dtype=torch.float64)

    def along_u(a: Tensor) -> Tensor:
        start = t.clone().requires_grad_()
        loss = WRONG_TWICE[name](start, a).sin().sum()
        return (torch.autograd.grad(loss, start, create_graph=True)[0] * u).sum()

    def error() -> float:
        at = a.clone().requires_grad_()
        slope = (along_u(a + 1e-6 * u) - along_u(a - 1e-6 * u)) / 2e-6
        return ((torch.autograd.grad(along_u(at), at)[0] * u).sum() - slope).abs().item()

    assert error() > 0.1, f"torch {torch.__version__} differentiates {name} rightly: it needs no arithmetic of ours"
    with right_derivatives(nn.Sequential(Rows())):
        assert error() < 1e-6


LAYERS = {
    "by frequency": ("tokens", lambda: nn.Sequential(nn.Embedding(7, 5, scale_grad_by_freq=True), Rows())),
    "weight norm": ("numbers", lambda: parametrizations.weight_norm(nn.Linear(4, 5))),
    "hardsigmoid": ("numbers", lambda: nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid())),
    "LSTMCell": ("numbers", lambda: OverRows(LSTMCell(4, 5))),
}


class OverRows(nn.Module):
    """Three functions of each row, read one after another."""

    def __init__(self, cell: LSTMCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return self.cell.read(torch.stack([x, x.sin(), x.cos()]))[-1]


@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_are_mapped_as_in_a_loop(name):
    torch.manual_seed(0)
    net = nn.Sequential(LAYERS[name][1](), nn.Softplus(), nn.Linear(5, WAYS)).double()
    batch = _batch(LAYERS[name][0])
    results = [_gradient(MAML(net, inner_lr=1.0, mapping=mapping), batch) for mapping in ("vmap", "loop")]
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


class ReadsByLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.stack([x, x.sin()]))[0][-1]


def test_what_vmap_has_no_rule_for_is_computed_in_a_loop():
    net, batch = nn.Sequential(ReadsByLSTM(), nn.Linear(5, WAYS)).double(), _batch("numbers")
    with pytest.warns(UserWarning, match=r"vmap has no rule for torch.lstm\); tasks are taken one after another"):
        found = _gradient(MAML(net, inner_lr=0.5), batch)
    torch.testing.assert_close(found, _by_hand(net, batch, 0.5), rtol=1e-8, atol=1e-8)
    with pytest.raises(RuntimeError, match="mapping='loop' can"):
        MAML(net, inner_lr=0.5, mapping="vmap").meta_backward(batch, classification)


def test_the_way_back_of_an_implicit_gradient_is_right_too():
    net, batch = _net("nn.LayerNorm"), _batch("numbers")
    vmapped, looped = (
        _gradient(IMAML(net, inner_lr=0.1, inner_steps=3, mapping=mapping), batch) for mapping in ("vmap", "loop")
    )
    torch.testing.assert_close(vmapped, looped, rtol=1e-8, atol=1e-8)


def test_only_networks_that_need_it_pay():
    for net in (conv4(outputs=2), mlp(2, 3), nn.Embedding(3, 2), TransformerEncoder(4, 2, 1, norm="layer")):
        assert right_derivatives(MAML(net, inner_lr=0.1)).__class__.__name__ == "nullcontext", net
    for net in (nn.LayerNorm(2), nn.Embedding(3, 2, padding_idx=0), _transformer(), Rows(), nn.InstanceNorm1d(2)):
        assert right_derivatives(nn.Sequential(net)).__class__.__name__ != "nullcontext", net


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "scale", "groups"])
def test_attention_is_torchs(mask):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 5, dtype=torch.float64)
    seen = torch.rand(6, 6) > 0.4
    seen[2] = False  # sees nothing
    options = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "float": {"attn_mask": torch.randn(6, 6).double().masked_fill(~seen, -torch.inf)},
        "scale": {"scale": 0.3},
        "groups": {"enable_gqa": True},
    }[mask]
    if mask == "groups":
        key, value = key[:, :2], value[:, :2]
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), expected)


def test_lstm_cell_is_torchs():
    torch.manual_seed(0)
    ours, theirs = LSTMCell(4, 3), nn.LSTM(4, 3)
    order = torch.tensor([0, 1, 3, 2])  # ours: input, forget, output, candidate; theirs has the last two exchanged
    with torch.no_grad():
        gates = ours.gates.weight.view(4, 3, 7)[order].reshape(12, 7)
        theirs.weight_ih_l0.copy_(gates[:, :4])
        theirs.weight_hh_l0.copy_(gates[:, 4:])
        theirs.bias_ih_l0.copy_(ours.gates.bias.view(4, 3)[order].flatten())
        theirs.bias_hh_l0.zero_()
        for x in (torch.randn(6, 4), torch.randn(6, 2, 4)):
            torch.testing.assert_close(ours.read(x), theirs(x)[0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_our_transformer_is_torchs(causal, padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6), enable_nested_tensor=False)
    for p in theirs.parameters():
        nn.init.normal_(p)
    ours = TransformerEncoder(6, 2, 2, norm="layer", causal=causal)
    ours.load_state_dict(theirs.state_dict())
    x, padding = torch.randn(3, 5, 6), (torch.arange(5) > torch.tensor([4, 2, 1])[:, None]) if padded else None
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected = theirs(x, mask, src_key_padding_mask=padding)
    torch.testing.assert_close(ours(x, padding), expected, rtol=1e-4, atol=1e-5)


def test_our_transformer_survives_an_empty_sequence():
    torch.manual_seed(0)
    net, x = TransformerEncoder(4, 2, 1), torch.randn(2, 3, 4, requires_grad=True)
    y = net(x, torch.tensor([[True] * 3, [False] * 3]))
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    with pytest.raises(ValueError, match="features=5 must be a multiple of heads=2"):
        TransformerEncoder(5, 2, 1)
    with pytest.raises(ValueError, match="norm must be 'rms' or 'layer', not 'batch'"):
        TransformerEncoder(4, 2, 1, norm="batch")


def _timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=8)


def _convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.0, layer_scale=0.5, num_classes=8)


NETWORKS = {
    "vit": lambda: VisionTransformer(32, 16, 2, 2, 12, 16, num_classes=8),
    "convnext": _convnext,
    "resnet18": lambda: resnet18(num_classes=8),
    "timm's efficientnet": lambda: _timm("test_efficientnet"),
}
LEARNERS = {
    "protonet": lambda net, mapping: ProtoNet(net, mapping=mapping),
    "meta_transfer": lambda net, mapping: MetaTransfer(net, ways=WAYS, features=8, inner_steps=2, mapping=mapping),
    "first-order maml": lambda net, mapping: MAML(net, inner_lr=0.01, first_order=True, mapping=mapping),
}


def _real(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.running_mean, std=0.1)
        for p in net.parameters():
            if not p.any():  # a head of zeros
                nn.init.normal_(p, std=0.1)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(name, method):
    net, batch = _real(name).double(), _batch("colour").each(lambda t: t[:2, :WAYS])
    before = copy.deepcopy(net.state_dict())
    results = []
    for mapping in ("vmap", "loop"):
        learner = LEARNERS[method](copy.deepcopy(net), mapping).double().eval()
        x = batch.query.x[0]
        expected = net.eval()(x)
        ours = learner.predict(learner.begin(), x) if method == "first-order maml" else learner.embed(x)
        torch.testing.assert_close(ours, expected)
        torch.manual_seed(0)
        judged = learner.train().meta_backward(batch, classification)
        gradient = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
        assert gradient.any()
        results.append((judged.losses, gradient))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(net.state_dict(), before)


@pytest.mark.parametrize("learner", [MAML, ProtoNet])
def test_token_ids_in_bfloat16(learner):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(7, 8, padding_idx=0),
        nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True),
        Rows(),
        nn.Linear(8, WAYS),
    )
    settings = {"inner_lr": 0.1} if learner is MAML else {}
    batch, results = _batch("tokens", torch.float32), []
    for bfloat16 in (True, False):
        ours = learner(net, bfloat16=bfloat16, **settings)
        results.append(_gradient(ours, batch))
        assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    assert not torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(*results, rtol=0.1, atol=0.1)


def test_state_dicts_go_there_and_back():
    theirs, other = _real("resnet18").eval(), resnet18(num_classes=8).eval()
    learner = MAML(other, inner_lr=0.1)
    learner.net.load_state_dict(theirs.state_dict())
    back = as_torch(learner.net).eval()
    assert not batch_norms(back) and back.state_dict().keys() == theirs.state_dict().keys()
    other.load_state_dict(back.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    for net in (learner.net.eval(), back, other):
        torch.testing.assert_close(net(x), theirs(x))


def test_a_norm_with_an_activation_goes_there_and_back():
    theirs = _real("timm's efficientnet").eval()
    ours = written_out(theirs)
    assert len(batch_norms(ours)) == sum(isinstance(m, nn.BatchNorm2d) for m in theirs.modules())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(as_torch(ours).state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(as_torch(ours)(x), theirs(x))


class Doubled(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_what_cannot_be_replaced_or_copied_is_refused():
    with pytest.raises(ValueError, match="Doubled is a batch normalisation with a forward pass of its own"):
        ProtoNet(nn.Sequential(Doubled(2)))
    with pytest.raises(ValueError, match=r"the layer '0', LazyLinear, has no weights yet; call the network on a batch"):
        ProtoNet(nn.Sequential(nn.LazyLinear(2)))
    with pytest.warns(FutureWarning):
        old = weight_norm(nn.Linear(2, 2))
    for layer in (old, prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5)):
        with pytest.raises(ValueError, match=r"Linear, has weights that a hook computes.*parametrizations.weight_norm"):
            MAML(nn.Sequential(layer), inner_lr=0.1)
    with pytest.raises(ValueError, match="every parameter of the network is frozen; unfreeze some"):
        MAML(mlp(2, 3).requires_grad_(False), inner_lr=0.1)
    frozen = ProtoNet(mlp(4, 3).double().requires_grad_(False))
    assert frozen.meta_backward(_batch("numbers"), classification).losses.isfinite().all()


def test_a_lazy_network_that_has_seen_inputs_is_a_network():
    net = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, WAYS))
    net(torch.randn(3, 4))
    assert parameters_to_vector(ProtoNet(net).parameters()).numel() == 25 + 10 + 18
