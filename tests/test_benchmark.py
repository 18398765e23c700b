"What the fast ways must not change, and what the benchmark must be right about."
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.studies.authors import AuthorsWay, Ours, Reference, copy_weights, few_users, rank_one_by_one
from mamex.studies.clocks import (AUTHORS, STEP, exponents, in_child, material, sizes, step_flops, synthetic_features,
                                  synthetic_split)
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.protocol.metrics import evaluate, user_metrics
from mamex.model import Config
from mamex.trainer import preset
from mamex.protocol.splits import cold_split
from mamex.trainer import Trainer, fit


def made(seed, n_items=60, M=2, holes=False):
    f, rng = synthetic_features(n_items, (9, 7, 5)[:M], seed), np.random.default_rng(seed)
    return replace(f, mask=rng.random(f.mask.shape) < .7) if holes else f


def model(f, n_users=20, seed=0, **kw):
    torch.manual_seed(seed)
    m = Config(dim=16, dropout=0., **kw).build(f, SimpleNamespace(n_users=n_users))
    return m, m.catalogue(f)


def gradients(m, catalogue, batch, warm):
    parts, it = m.losses(catalogue, *batch, warm)
    grads = torch.autograd.grad(m.total(parts), list(m.parameters()), allow_unused=True)
    return [*parts.values(), *(torch.zeros_like(p) if g is None else g for p, g in zip(m.parameters(), grads))], it


def same(a, b, atol=1e-5): return all(torch.allclose(x, y, atol=atol, rtol=1e-4) for x, y in zip(a, b))


@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans(), st.sampled_from(["own", "shared", "joint"]))
@settings(max_examples=25, deadline=None)
def test_step_with_every_item_is_all(seed, M, holes, design):
    f = made(seed % 100, M=M, holes=holes); n = len(f.mask)
    rng = torch.Generator().manual_seed(seed)
    batch = torch.randint(20, (n,), generator=rng), torch.randperm(n, generator=rng), torch.randint(n, (n,), generator=rng)
    (a, _), (b, _) = (gradients(*model(f, seed=seed, design=design, regularise_on=on), batch, torch.ones(n, dtype=torch.bool)) for on in ("all", "step"))
    assert same(a, b)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_step_computes_its_own_items_alone(seed, holes):
    "What the other items look like makes no difference, and the step's own are what they are in the whole catalogue."
    f = made(seed % 100, holes=holes); rng = np.random.default_rng(seed)
    i, j = (torch.as_tensor(rng.integers(0, len(f.mask), 8)) for _ in range(2))
    used = torch.cat([i, j]).unique()
    other = replace(f, vectors={m: np.where(np.isin(np.arange(len(v)), used)[:, None], v, np.float32(7)) for m, v in f.vectors.items()})
    batch, warm = (torch.as_tensor(rng.integers(0, 20, 8)), i, j), torch.ones(len(f.mask), dtype=torch.bool)
    a, it = gradients(*model(f, regularise_on="step"), batch, warm)
    assert same(a, gradients(*model(other, regularise_on="step"), batch, warm)[0]) and torch.allclose(it.e, (lambda m, c: m(c))(*model(f)).e[used], atol=1e-6)


@pytest.mark.parametrize("on", ["all", "step"])
@pytest.mark.parametrize("holes", [False, True])
def test_vectors_on_disk_and_in_blocks(tmp_path, on, holes):
    "The losses of memory-mapped vectors are those of vectors in memory, to the bit; those of a catalogue in blocks, up to rounding."
    f = made(3, holes=holes)
    for m, v in f.vectors.items(): np.save(tmp_path / f"{m}.npy", v)
    mapped = replace(f, vectors={m: np.load(tmp_path / f"{m}.npy", mmap_mode="r") for m in f.vectors})
    batch, warm = tuple(torch.randint(n, (30,)) for n in (20, 60, 60)), torch.ones(60, dtype=torch.bool)
    (a, _), (b, _), (blocks, on_disk) = gradients(*model(f, regularise_on=on), batch, warm), gradients(*model(mapped, regularise_on=on), batch, warm), model(mapped, regularise_on=on)
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    blocks.block = blocks.piece = 17
    assert same(a, gradients(blocks, on_disk, batch, warm)[0])
    users, items = np.arange(20), np.arange(60)
    assert np.allclose(blocks.scorer(on_disk)(users, items), (lambda m, c: m.scorer(c))(*model(f))(users, items), atol=1e-5)


@pytest.mark.parametrize("M", [1, 2])
def test_step_resumes_to_the_same_bytes(tmp_path, M):
    "Also with one modality, whose gate learns nothing and so has no moments to keep."
    f, split, c = made(5, M=M), synthetic_split(20, 60, 400), preset("released", dim=16, batch_size=64, epochs=9, eval_every=2, regularise_on="step")
    class Kill(Exception): pass
    def kill(row):
        if row["epoch"] >= 4: raise Kill
    whole = fit(f, split, c, progress=False)
    with pytest.raises(Kill): fit(f, split, c, checkpoints=tmp_path, callback=kill, progress=False)
    again = fit(f, split, c, checkpoints=tmp_path, progress=False)
    assert again.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_experts_with_many_rows_take_turns(precision):
    "An expert that serves more rows than are gathered at once says and learns what it does in a catalogue that passes in pieces of fewer."
    f = made(1, n_items=9000); batch, warm = tuple(torch.randint(n, (500,)) for n in (20, 9000, 9000)), torch.ones(9000, dtype=torch.bool)
    (whole, c), (pieces, _) = model(f, precision=precision), model(f, precision=precision)
    pieces.block = pieces.piece = 700
    a, b = gradients(whole, c, batch, warm)[0], gradients(pieces, c, batch, warm)[0]
    if precision == "float32": assert same(a, b)
    for x, y in zip(a, b): assert (x - y).norm() <= .01 * y.norm() + 1e-6


@pytest.mark.parametrize("design", ["own", "shared", "joint"])
@pytest.mark.parametrize("on", ["all", "step"])
def test_bfloat16_rounds_and_no_more(design, on):
    "Losses and gradients of all weights stay near those in float32, are float32 themselves, and an absent vector still moves nothing."
    f = made(7, n_items=300, holes=True); batch, warm = tuple(torch.randint(n, (200,)) for n in (20, 300, 300)), torch.ones(300, dtype=torch.bool)
    (a, it), (b, _) = (gradients(*model(f, design=design, regularise_on=on, precision=p), batch, warm) for p in ("bfloat16", "float32"))
    for x, y in zip(a, b): assert x.dtype == torch.float32 and (x - y).norm() <= .03 * y.norm() + 1e-5
    assert not same(a, b, atol=1e-7)
    loud = replace(f, vectors={m: np.where(f.mask[:, n:n+1], v, np.float32(9)) for n, (m, v) in enumerate(f.vectors.items())})
    assert torch.equal(it.e, gradients(*model(loud, design=design, regularise_on=on, precision="bfloat16"), batch, warm)[1].e)


def test_evaluate_in_smaller_chunks_is_the_same():
    split = synthetic_split(200, 100, 3000)
    score = lambda u, i: np.sin(np.multiply.outer(u + 1., i + 3.))
    assert evaluate(score, split).equals(evaluate(score, split, chunk=7))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_yardstick_ranks_as_we_do(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.random((6, 30)), rng.random((6, 30)) < .2
    relevant[:, 0] = True
    ours, plain = user_metrics(scores, relevant), rank_one_by_one(scores, [set(np.flatnonzero(r)) for r in relevant])
    for m, v in plain.items(): assert abs(v - ours[m].mean()) < 1e-12


def test_both_ways_learn_the_same():
    "The yardstick is no straw man: on toy it reaches what the trainer reaches."
    _, f, split = material("toy"); f, best = replace(f, mask=np.ones_like(f.mask)), {}
    for name, way in (("a", AuthorsWay(f, split, Config(lr=1e-2))), ("b", Ours(f, split, Config(lr=1e-2)))):
        for _ in range(40):
            triples = way.draw()
            for a in range(0, triples.shape[1], 2048): way.step(triples[:, a:a+2048])
        best[name] = way.validate()
    assert abs(best["a"] - best["b"]) < .08 and min(best.values()) > .05, best


def test_flops_by_hand():
    c = Config(dim=10, n_experts=4, top_k=2)
    assert step_flops(7, [3, 5], c) == 4 * 7 * 8 * (20 + 4) + 6 * 7 * 20 * 11
    assert step_flops(7, [3, 5], c, chosen=False) - step_flops(7, [3, 5], c) == 4 * 7 * 8 * 20


def test_refusals_and_failures():
    with pytest.raises(UsageError, match="do not fit"): synthetic_split(3, 3, 10)
    assert "failed" in in_child(dict(way=STEP, steps=1, rank=0, dataset="no such set"))
    with pytest.raises(UsageError, match="regularise_on is 'batch'; choose one of 'all', 'warm', 'step'"): Config(regularise_on="batch")
