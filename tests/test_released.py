"`released` computes what the released code computes: same weights in, same losses and gradients out."
from dataclasses import replace
import numpy as np, pytest, torch
from mamex.datasets.folders import load_dataset
from mamex.extractor import Extractor
from mamex.trainer import preset
from mamex.protocol.pairs import PairSampler
from mamex.protocol.splits import cold_split
from mamex.studies.authors import Reference, copy_weights, draw_one_by_one


@pytest.fixture(scope="module")
def toy():
    ds = load_dataset("toy")
    f = Extractor("tiny").extract(ds, progress=False)
    return ds, replace(f, mask=np.ones_like(f.mask)), cold_split(ds)  # the released code knows no masks


def grads(parts, params, lam=(1, 1, 1, 1e-6)):
    total = parts["bpr"] + sum(l * parts[k] for l, k in zip(lam, ("align", "adapter", "fusion", "reg")))
    return torch.autograd.grad(total, params)


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients(toy, seed):
    ds, features, split = toy
    torch.manual_seed(seed)
    ours = preset("released", dropout=0.).build(features, ds); catalogue = ours.catalogue(features)
    plain = copy_weights(Reference([features.vectors[m] for m in features.modalities], ds.n_users, dropout=0.), ours)
    batch = [torch.as_tensor(x) for x in draw_one_by_one(split, np.random.RandomState(seed))[:, :2048]]
    a, b = ours.losses(catalogue, *batch, torch.ones(ds.n_items, dtype=torch.bool))[0], plain.losses(*batch)
    for k in b: torch.testing.assert_close(a[k], b[k], atol=1e-5, rtol=1e-5)
    m = ours.modalities
    g = grads(a, [ours.users, *(ours.adapters[x].weight for x in m), *(ours.adapters[x].router.weight for x in m), *ours.gate.parameters()])
    h = grads(b, [plain.user.weight, *(e.weight for moe in plain.moe for e in moe.experts), *(moe.router.weight for moe in plain.moe), *plain.gate.parameters()])
    K = ours.config.n_experts
    h = [h[0], *(torch.stack(h[1 + n * K:1 + (n + 1) * K]) for n in range(len(m))), *h[1 + len(m) * K:]]
    for x, y in zip(g, h): torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


def test_a_hundred_steps_apart(toy):
    "Adam included, both walk the same way (without dropout, whose masks are drawn differently)."
    ds, features, split = toy
    torch.manual_seed(0)
    ours = preset("released", dropout=0.).build(features, ds); catalogue = ours.catalogue(features)
    plain = copy_weights(Reference([features.vectors[m] for m in features.modalities], ds.n_users, dropout=0.), ours)
    opts = [torch.optim.Adam(ours.parameters(), lr=1e-3, fused=True), torch.optim.Adam(plain.parameters(), lr=1e-3)]
    warm, sampler, rng = torch.ones(ds.n_items, dtype=torch.bool), PairSampler(split), np.random.default_rng(0)
    for _ in range(100):
        batch = [torch.as_tensor(x) for x in sampler.epoch(rng)[:, :512]]
        totals = []
        for opt, parts in zip(opts, (ours.losses(catalogue, *batch, warm)[0], plain.losses(*batch))):
            total = ours.total(parts); opt.zero_grad(); total.backward(); opt.step(); totals.append(total.item())
    assert abs(totals[0] - totals[1]) < 1e-3
    # routing is discrete: rounding may send an item that stands on a boundary to another expert
    far = (ours(catalogue).e - plain()[0]).abs().amax(1) > 5e-3
    assert far.float().mean() < .01


def test_negatives_have_the_released_distribution(toy):
    "Drawn at once or one by one, each item is a negative as often (total variation against the expected counts)."
    _, _, split = toy
    fast = np.concatenate([PairSampler(split).epoch(np.random.default_rng(s))[2] for s in range(20)])
    slow = np.concatenate([draw_one_by_one(split, np.random.RandomState(s))[2] for s in range(20)])
    p, q = (np.bincount(x, minlength=split.n_items) / len(x) for x in (fast, slow))
    r = np.concatenate([draw_one_by_one(split, np.random.RandomState(100 + s))[2] for s in range(20)])
    noise = np.abs(q - np.bincount(r, minlength=split.n_items) / len(r)).sum() / 2
    assert np.abs(p - q).sum() / 2 < 1.2 * noise
