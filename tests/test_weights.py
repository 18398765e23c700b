"Weights apart from the catalogue: one model over many catalogues, whole, in parts, from files, and none of them leaves a trace."
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.base import UsageError
from mamex.model import Config
from mamex.vectors.catalogue import BEHAVIOUR, Catalogue
from mamex.vectors.features import Features

N, CASES = 40, dict(released={}, paper=dict(normalise=False, gate="sparse"), joint=dict(design="joint"), shared=dict(design="shared"), mean=dict(gate="mean"),
                    placeholder=dict(placeholder=True), context=dict(context="both"), step=dict(regularise_on="step"), half=dict(precision="bfloat16"), plain=dict(kernels="plain"))


def made(seed, fills=False, n=N):
    rng = np.random.default_rng(seed); mask = rng.random((n, 3)) < .7
    v = {m: rng.normal(size=(n, d)).astype(np.float32) for m, d in dict(image=5, text=4, sound=3).items()}
    stand = {m: rng.normal(size=x.shape).astype(np.float32) for m, x in v.items()} if fills else {}
    return Features({m: x * mask[:, [k]] for k, (m, x) in enumerate(v.items())}, mask, "made up", dict.fromkeys(v, {}), stand, dict(age=rng.random(n).astype(np.float32)))


def model(f, case="released"):
    torch.manual_seed(0); m = Config(dim=8, **CASES[case]).build(f, SimpleNamespace(n_users=6)).eval()
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p) * .1)  # what starts at zero says something
    return m, m.catalogue(f)


def arrays(it): return [it.e, it.z, it.alpha, *it.probs, *it.gates, it.has]


def same(a, b): return all(torch.equal(x, y) for x, y in zip(arrays(a), arrays(b)))


@pytest.mark.parametrize("fills", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_one_model_over_many_catalogues(case, fills, tmp_path):
    f, rng = made(1, fills), torch.Generator().manual_seed(0)
    m, c = model(f, case); before = {k: v.clone() for k, v in m.state_dict().items()}
    with torch.no_grad():
        whole = m(c)
        assert not any(len(v) == N for v in before.values()) and not same(m(m.catalogue(made(2, fills))), whole)
        m(c, drop=torch.rand(N, 3, generator=rng) < .5); m(m.catalogue(made(3, fills, 7)))
        for name, v in f.vectors.items(): np.save(tmp_path / f"{name}.npy", v)
        disk = m.catalogue(replace(f, vectors={n: np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in f.vectors}))
        assert all(isinstance(v, np.memmap) for v in disk.vectors.values()) and same(m(disk), whole) and same(m(disk.take()), whole)
        some = torch.randperm(N, generator=rng)[:9]
        assert same(m(c, some), m(c.take(some))) and same(m(c, some), m(disk, some))
        m.block = m.piece = 11; pieces = m(disk)
        m.block = m.piece = N; assert same(m(c), whole)  # the first once more: nothing was left behind
    near = dict(atol=.05) if case == "half" else dict(atol=1e-5)
    for x, y in zip(arrays(whole), arrays(pieces)): assert torch.allclose(x.float(), y.float(), **near)
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())


@given(seed=st.integers(0, 999), fills=st.booleans())
@settings(max_examples=40, deadline=None)
def test_parts_of_a_catalogue(seed, fills):
    f, rng = made(seed, fills), np.random.default_rng(seed)
    c, rows = Catalogue.of(f, Config()), rng.permutation(N)[:rng.integers(1, N)]
    part, of_part = c.take(torch.as_tensor(rows)), Catalogue.of(f.rows(rows) if hasattr(f, "rows") else Features({m: v[rows] for m, v in f.vectors.items()}, f.mask[rows], "", {}, {m: v[rows] for m, v in f.fills.items()}, {k: v[rows] for k, v in f.context.items()}), Config())
    for k in ("has", "context", "met"): assert torch.equal(getattr(part, k), getattr(of_part, k))
    for k in ("vectors", "fills"):
        for m, v in getattr(part, k).items(): assert torch.allclose(v, getattr(of_part, k)[m], atol=1e-6)
    assert all((v[~c.has[:, k]] == 0).all() for k, v in enumerate(c.vectors.values()))


def test_behaviour_is_another_catalogue():
    f = made(4); f = replace(f, vectors=f.vectors | {BEHAVIOUR: np.zeros((N, 2), np.float32)}, mask=np.c_[f.mask, np.zeros(N, bool)])
    m, first = model(f); kept = {k: v.clone() for k, v in first.vectors.items()} | dict(has=first.has.clone())
    with torch.no_grad():
        before, later = m(first), first.with_behaviour(np.ones((N, 2)), np.arange(N) % 3)
        assert not same(m(later), before) and same(m(first), before)
    assert all(torch.equal(v, first.has if k == "has" else first.vectors[k]) for k, v in kept.items())
    again = later.with_behaviour(np.ones((N, 2)), np.zeros(N))  # nobody: the first day
    assert torch.equal(again.has, first.has) and not again.vectors[BEHAVIOUR].any()


@pytest.mark.parametrize("change, says", [(lambda f: f.subset(["text"]), "extract the same ones"), (lambda f: replace(f, context={}), "prepare them in the same way"),
                                          (lambda f: replace(f, vectors=f.vectors | dict(text=np.zeros((N, 9), np.float32))), "the text vectors are 9 wide, the model expects 4"),
                                          (lambda f: replace(f, fills=dict(text=f.vectors["text"])), "the items bring \\['text'\\]")])
def test_foreign_items_are_refused(change, says):
    m, _ = model(made(1))
    with pytest.raises(UsageError, match=says): m.catalogue(change(made(1)))
