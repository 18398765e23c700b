"Each kernel against its plain line: values and gradients, alone and in a whole step."
from dataclasses import replace
import numpy as np, pytest, torch
from types import SimpleNamespace
from hypothesis import given, settings, strategies as st
from mamex.adapters import Adapters, mix, top_gates
from mamex.base import UsageError
from mamex.gate import FusionGate, dropout, fuse, hidden
from mamex.losses import align_loss
from mamex.model import Config
from mamex.trainer import preset
from mamex.vectors.features import Features

WAYS = ("fast", "plain")
seeds, sizes = st.integers(0, 10**6), st.integers(1, 6)


def doubles(seed, *shapes):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, dtype=torch.double, generator=rng).requires_grad_() for s in shapes]


def agree(f, *args):
    "Gradients are those of finite differences, and both ways give the same values and gradients."
    assert torch.autograd.gradcheck(f.ways["fast"], args)
    outs = [f(*args, kernels=k) for k in WAYS]
    wanted = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    grads = [torch.autograd.grad(o.square().sum(), wanted) for o in outs]
    for a, b in zip((outs[0], *grads[0]), (outs[1], *grads[1])): torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@given(seeds, sizes, sizes, sizes, st.integers(1, 4), st.data())
@settings(max_examples=20, deadline=None)
def test_mixture(seed, n, d_in, d_out, K, data):
    k = data.draw(st.integers(1, K))
    logits, h, W, b = doubles(seed, (n, K), (n, d_in), (K, d_out, d_in), (K, d_out))
    w, idx = top_gates(logits.detach(), k)
    has = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    agree(mix, h, W, b, (w * has.unsqueeze(1)).requires_grad_(), idx)


@given(seeds, sizes, st.integers(1, 4), sizes, sizes, st.booleans())
@settings(max_examples=20, deadline=None)
def test_hidden_layer_and_fusion(seed, n, M, d, d_out, side_by_side):
    z, W, b, alpha = doubles(seed, (M, n, d), (d_out, M * d), (d_out,), (n, M))
    z = z.detach().transpose(0, 1)  # as the model lays it out
    z = (z.contiguous() if side_by_side else z).requires_grad_()
    agree(hidden, z, W, b)
    agree(fuse, z, alpha)


@given(seeds, sizes, st.integers(1, 4), sizes)
@settings(max_examples=20, deadline=None)
def test_align_is_a_squared_difference(seed, n, M, d):
    e, z = doubles(seed, (n, d), (n, M, d))
    mask = torch.rand(n, M, generator=torch.Generator().manual_seed(seed)) < .7
    assert torch.autograd.gradcheck(lambda e, z: align_loss(e, z, mask, "sum"), (e, z))
    by_eq = sum(((e[mask[:, m]] - z[mask[:, m], m])**2).sum() / max(1, mask[:, m].sum()) for m in range(M))
    torch.testing.assert_close(align_loss(e, z, mask, "sum"), torch.as_tensor(by_eq, dtype=torch.double))


@pytest.mark.parametrize("kernels", WAYS)
@pytest.mark.parametrize("p", [.1, .5])
def test_dropout_keeps_the_mean(kernels, p):
    torch.manual_seed(0)
    x = dropout(torch.ones(400, 101, requires_grad=True), p, True, kernels=kernels)
    assert abs((x == 0).float().mean() - p) < .01 and abs(x.mean() - 1) < .02 and (x[x != 0] - 1 / (1 - p)).abs().max() < 1e-3
    assert torch.equal(dropout(x, p, False, kernels=kernels), x)


def made(seed=0, n=200, widths=(24, 16, 9), holes=True):
    rng = np.random.default_rng(seed)
    V = {m: rng.standard_normal((n, d), np.float32) for m, d in zip(("image", "text", "sound"), widths)}
    mask = rng.random((n, len(V))) < (.8 if holes else 1.1)
    return Features(V, mask, "made up", {m: dict(present=n, missing=0, unreadable=0) for m in V})


def step(features, kernels, name="released", **kw):
    "Losses, fused vectors and gradients of one step."
    torch.manual_seed(0)
    model = preset(name, dim=32, dropout=0., kernels=kernels, **kw).build(features, SimpleNamespace(n_users=30))
    n = len(features.mask); batch = torch.randint(30, (64,)), torch.randint(n, (64,)), torch.randint(n, (64,))
    parts, items = model.losses(model.catalogue(features), *batch, torch.arange(n) % 5 > 0)
    params = [p for p in model.parameters()]
    grads = torch.autograd.grad(model.total(parts), params, allow_unused=True)
    return [*parts.values(), items.e, *(torch.zeros_like(p) if g is None else g for p, g in zip(params, grads))]


SETTINGS = {"released": {}, "paper": dict(name="paper"), "joint": dict(design="joint"), "shared": dict(design="shared"),
            "no gate": dict(gate="mean"), "one expert": dict(n_experts=1, top_k=1), "all experts": dict(top_k=4),
            "placeholder": dict(placeholder=True), "step": dict(regularise_on="step")}


@pytest.mark.parametrize("kw", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("M", [1, 2, 3])
def test_a_step_is_the_same_both_ways(kw, M):
    f = made(M, widths=(24, 16, 9)[:M])
    for a, b in zip(*(step(f, k, **kw) for k in WAYS)): torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-4)


@pytest.mark.parametrize("design", ["own", "shared", "joint"])
def test_a_step_in_bfloat16_is_nearly_the_same_both_ways(design):
    f = made(7)
    fast, plain, exact = (step(f, k, design=design, precision=p) for k, p in (("fast", "bfloat16"), ("plain", "bfloat16"), ("fast", "float32")))
    for a, b, c in zip(fast, plain, exact):
        assert a.dtype == b.dtype == torch.float32
        assert (a - b).norm() <= .03 * c.norm() + 1e-5 and (b - c).norm() <= .03 * c.norm() + 1e-5
    assert any(not torch.equal(b, c) for b, c in zip(plain, exact)), "nothing was rounded"


@pytest.mark.parametrize("kernels", WAYS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_absent_vector_moves_nothing(kernels, precision):
    f = made(3)
    loud = replace(f, vectors={m: np.where(f.mask[:, n:n+1], v, np.float32(9)) for n, (m, v) in enumerate(f.vectors.items())})
    for a, b in zip(step(f, kernels, precision=precision), step(loud, kernels, precision=precision)): assert torch.equal(a, b)


def test_dropout_alone_tells_the_ways_apart():
    f, out = made(1), {}
    for k in WAYS:
        torch.manual_seed(0)
        out[k] = preset("released", dim=32, kernels=k).build(f, SimpleNamespace(n_users=30))
    a, b = (m.train()(m.catalogue(f)).e for m in out.values())
    assert not torch.allclose(a, b, atol=1e-4)
    a, b = (m.eval()(m.catalogue(f)).e for m in out.values())
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-4)


def test_another_way_is_refused():
    with pytest.raises(UsageError, match="kernels is 'slow'; choose one of 'fast', 'plain'"): Config(kernels="slow")
    x, mask = torch.randn(4, 2, 3), torch.ones(4, 2, dtype=torch.bool)
    with pytest.raises(UsageError, match="it is one of 'fast', 'plain'"): fuse(x, mask.float(), kernels="slow")
    with pytest.raises(UsageError, match="it is one of 'fast', 'plain'"): FusionGate(3, 2, kernels="slow")(x, mask)
    with pytest.raises(UsageError, match="it is one of 'fast', 'plain'"): Adapters({"a": 3}, 2, kernels="slow")({"a": x[:, 0]}, mask[:, :1])
