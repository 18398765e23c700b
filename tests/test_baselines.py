"The floors' new neighbours and the peers: losses by hand, tricks that matter, what they learn, what they stand."
from dataclasses import replace
from pathlib import Path
import json, shutil, sys
import mamex, numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.rivals.floors import (floors, presence_scorer, text_lengths, factorise, factors, LinearCF,
                                 oracle_popularity, random_scorer, tune_linear_cf)
from mamex.base import UsageError, reached, stamp_of
from mamex.datasets.folders import load_dataset
from mamex.datasets.toy import toy as make_toy
from mamex.vectors.features import Features
from mamex.extractor import Extractor
from mamex.protocol.metrics import evaluate
from mamex.model import Config
from mamex.trainer import preset
from mamex.rivals.peers import EXTRA, PEERS, SPACES, peer_config, suggest
from mamex.protocol.splits import Split, cold_split
from mamex.trainer import FEEDS, Trainer, fit, run_key, watch

ALL = [*PEERS, *EXTRA]
OFF = dict(dropoutnet=dict(dropout=0.), metaembed=dict(alpha=1.), mtpr=dict(lambda_counterfactual=0.), clcrec=dict(replace=0.),
           gar=dict(alpha=1., beta=1.), alignrec=dict(lambda_similar=0.), milk=dict(lambda_variance=0.), mlp=dict(lambda_align=0.))


@pytest.fixture(scope="module")
def toy():
    ds = load_dataset("toy")
    return Extractor("tiny").extract(ds, progress=False), cold_split(ds)


def tiny(n_users=14, n_items=24, seed=0):
    "Three tastes that content and interactions share; the last four items are cold, item 0 lacks a modality, item 1 has none."
    rng = np.random.default_rng(seed)
    kind, taste = np.arange(n_items) % 3, np.arange(n_users) % 3
    pairs = np.argwhere(taste[:, None] == kind)
    v = lambda d: (np.eye(3)[kind] @ rng.normal(size=(3, d)) * 2 + rng.normal(size=(n_items, d))).astype("float32")
    mask = np.ones((n_items, 2), bool); mask[0, 0] = False; mask[1] = False
    f = Features(dict(image=v(6), text=v(5)), mask, "made", dict(image={}, text={}))
    cold, val = pairs[:, 1] >= n_items - 4, pairs[:, 1] >= n_items - 2
    return f, Split(n_users, n_items, pairs[~cold], pairs[cold & ~val], pairs[val], np.arange(n_items - 4, n_items - 2), np.arange(n_items - 2, n_items))


def quick(name, **settings):
    # at α = .05, its default, this short a game stays near chance; ten neighbours in the content of toy are few
    more = dict(gar=dict(alpha=.9), alignrec=dict(knn=40)).get(name, {})
    return peer_config(name, **dict(batch_size=512, lr=3e-3, epochs=31, eval_every=10) | more | settings)


# what they learn

@pytest.fixture(scope="module")
def large():
    "A larger toy: with its 320 candidates chance ranks low (NDCG@10 .024; among the 80 of the usual one it has .096, and nothing reaches three times that)."
    ds = make_toy(n_users=400, n_items=1600)
    return Extractor("tiny").extract(ds, progress=False), cold_split(ds)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("dropoutnet", "metaembed", "mtpr")])  # see test_peers_absent.py
def test_learns_on_toy(name, large):
    "Three times chance on cold items of the test half, from a short training without tuning."
    run = fit(*large, quick(name, epochs=21), progress=False)
    got, chance = (evaluate(s, large[1])["ndcg@10"].mean() for s in (run.model.scorer(), random_scorer(large[1])))
    assert got > 3 * chance, (got, chance)
    assert set(run.history[0]) >= {"val/ndcg@10", "val_own/ndcg@10", "total"} and not any(k.startswith("alpha") for k in run.history[0])
    assert watch(run.history, run.config) is not None


@pytest.mark.parametrize("name", ALL)
def test_fits_a_tiny_set(name):
    "With enough epochs the training pairs of a tiny set are ranked before nearly all else that is warm."
    f, split = tiny()
    f = replace(f, mask=np.ones_like(f.mask))
    few = dict(gar=dict(mf_reg=.1, hidden=64), dropoutnet=dict(mf_reg=.1, hidden=64, user_dropout=0., negatives="warm")).get(name, {})
    if name == "gar": few |= dict(beta=.9)  # the ranker's weight on items not met: at .1 it learns to tell real from made, and little else
    t = Trainer(f, split, peer_config(name, dim=16, lr=1e-2, batch_size=64, **few))
    for _ in range(250): t.epoch()
    score, met = t.model.scorer()(np.arange(split.n_users), split.warm_items), split.matrix(dtype=bool).toarray()[:, split.warm_items]
    auc = np.mean([(row[hit][:, None] > row[~hit]).mean() for row, hit in zip(score, met)])
    assert auc > .97, auc


@pytest.mark.parametrize("name", ALL)
def test_trick_off_changes_the_outcome(name, toy):
    with_it, without = (fit(*toy, quick(name, epochs=4, eval_every=2, **off), progress=False).model.scorer()(np.arange(9), toy[1].cold_items)
                        for off in ({}, OFF[name]))
    assert np.abs(with_it - without).max() > 1e-3


# what they compute

def sig(x): return 1 / (1 + np.exp(-x))
def softplus(x): return np.log1p(np.exp(x))
def norms(*xs): return np.mean(sum((x**2).sum(1) for x in xs))
def bpr(u, i, j): return softplus((u * (j - i)).sum(1)).mean()


class Hand:
    "A model on the tiny set, its weights in numpy, and one batch with a repeated item."
    def __init__(self, name, **settings):
        self.f, self.split = tiny()
        self.c = peer_config(name, dim=4, negatives="warm", **settings)
        torch.manual_seed(1); self.m = self.c.build(self.f, self.split, 0).eval()
        self.w = {k: v.detach().numpy().astype(float) for k, v in self.m.named_parameters()} | {k: v.numpy() for k, v in self.m.named_buffers()}
        self.u, self.i, self.j = np.array([0, 1, 2, 5, 3]), np.array([0, 1, 2, 2, 3]), np.array([7, 2, 4, 12, 19])
        self.x = self.w["content"].astype(float)
        self.z = np.split(self.x, [6], 1)

    def parts(self, seed=0):
        torch.manual_seed(seed)
        p, aux = self.m.losses(None, *map(torch.as_tensor, (self.u, self.i, self.j)), None)
        assert aux is None
        return {k: v.item() for k, v in p.items()}, self.m.total(p).item()

    def lin(self, name, x): return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)
    def check(self, want, total):
        got, t = self.parts()
        assert set(got) == set(want)
        for k, v in want.items(): assert np.isclose(got[k], v, rtol=2e-4, atol=1e-6), (k, got[k], v)
        assert np.isclose(t, total, rtol=2e-4), (t, total)


def bn(x): return x / np.sqrt(1 + 1e-5)  # evaluation mode before any step: mean 0, variance 1




def test_mlp_by_hand():
    h = Hand("mlp", hidden=6, lambda_align=.5, lambda_reg=.1); w = h.w
    z = [h.lin(f"encoders.{n}.2", np.maximum(h.lin(f"encoders.{n}.0", x), 0)) for n, x in enumerate(h.z)]
    mask = h.f.mask
    e = (z[0] * mask[:, :1] + z[1] * mask[:, 1:]) / np.maximum(mask.sum(1, keepdims=True), 1)
    u = w["users"][h.u]
    want = dict(bpr=bpr(u, e[h.i], e[h.j]), align=sum(((e - z[m])[mask[:, m]]**2).mean() for m in (0, 1)), reg=norms(u, e[h.i], e[h.j]))
    h.check(want, want["bpr"] + .5 * want["align"] + .1 * want["reg"])


# what they stand

@pytest.mark.parametrize("name", ALL)
def test_same_twice_and_resumed(name, tmp_path):
    "Two runs agree to the bit, and so does one that was interrupted; ids of cold items are nobody's business."
    f, split = tiny()
    c = peer_config(name, dim=8, batch_size=16, epochs=9, eval_every=2)
    a, b = fit(f, split, c, progress=False), fit(f, split, c, progress=False)
    class Kill(Exception): pass
    def stop(row):
        if row["epoch"] >= 4: raise Kill
    with pytest.raises(Kill): fit(f, split, c, progress=False, checkpoints=tmp_path, callback=stop)
    r = fit(f, split, c, progress=False, checkpoints=tmp_path)
    for other in (b, r):
        assert other.history == a.history
        for x, y in zip(a.model.state_dict().values(), other.model.state_dict().values()): assert torch.equal(x, y)
    assert fit(f, split, replace(c, epochs=1), seed=1, progress=False).history != fit(f, split, replace(c, epochs=1), progress=False).history


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_missing_one_and_three_modalities(name, negatives):
    "Holes, an item with nothing, one modality, three: all train, and what an absent vector holds makes no difference."
    f, split = tiny()
    c = peer_config(name, dim=8, batch_size=32, epochs=2, eval_every=1, negatives=negatives)
    rng = np.random.default_rng(0)
    three = replace(f, vectors=f.vectors | dict(sound=rng.normal(size=(24, 3)).astype("float32")), mask=np.c_[f.mask, rng.random(24) < .5], counts=f.counts | dict(sound={}))
    three.mask[-1] = False                                   # a cold item of which nothing is known
    noisy = replace(three, vectors={m: np.where(three.mask[:, [n]], v, 9).astype("float32") for n, (m, v) in enumerate(three.vectors.items())})
    users = np.arange(split.n_users)
    for g in (f.subset(["text"]), three): assert np.isfinite(fit(g, split, c, progress=False).model.scorer()(users, np.arange(24))).all()
    a, b = (fit(g, split, c, progress=False).model.scorer()(users, split.cold_items) for g in (three, noisy))
    assert np.array_equal(a, b)
    assert np.allclose(a[:, -1], a[:, :-1].mean(1), atol=1e-5)  # it stands in the middle


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("milk", "mlp")])
def test_a_cold_item_is_its_content(name):
    "Two items with the same vectors, one warm and one cold: the cold one does not borrow an id, and another cold item's vectors do not matter."
    f, split = tiny()
    m = fit(f, split, peer_config(name, dim=8, batch_size=32, epochs=5, eval_every=5), progress=False).model
    users, cold = np.arange(split.n_users), split.cold_items
    before, warm = m.scorer()(users, cold), m.scorer()(users, split.warm_items)
    for k in ("ids", "q"):
        if hasattr(m, k): getattr(m, k).data[torch.as_tensor(cold)] += 7.
    if name == "dropoutnet": m.q[torch.as_tensor(cold)] = 0  # its input is the buffer itself
    assert np.array_equal(m.scorer()(users, cold), before) and np.array_equal(m.scorer()(users, split.warm_items), warm)


def test_run_key_knows_the_peer(toy):
    assert len({run_key(*toy, c, 0) for c in (peer_config("mtpr"), peer_config("mtpr", dim=32), peer_config("milk"), Config())}) == 4
    class Mtpr2(type(peer_config("mtpr"))): pass
    assert run_key(*toy, Mtpr2(), 0) != run_key(*toy, peer_config("mtpr"), 0)  # same settings, another class
    class Blind(type(peer_config("mtpr"))): code = ()
    class Seeing(type(peer_config("mtpr"))): pass
    Blind.__name__ = Seeing.__name__ = "C"
    assert run_key(*toy, Blind(), 0) != run_key(*toy, Seeing(), 0)             # the peers' code counts


@pytest.mark.parametrize("name", ALL)
def test_the_key_reaches_the_module_of_the_model(name, tmp_path):
    "Through the modules that the settings name; an operator changed there is another key, a remark is not."
    root, config = Path(mamex.__file__).parent, peer_config(name)
    file = Path(sys.modules[type(config).model.__module__].__file__)
    sources = [f"import {m}" for m in config.code]
    assert file in reached(sources, root) and file.parent.name == "rivals" and file.stem in ("absent", "aligned", "graphs")
    shutil.copytree(root, tmp_path / "mamex", ignore=shutil.ignore_patterns("__pycache__"))
    copy, stamps = tmp_path / "mamex" / file.relative_to(root), []
    text = file.read_text(encoding="utf-8")
    for source in (text, text + "\n# a remark", text.replace("F.softplus(", "F.relu(").replace("F.normalize(", "F.relu(")):
        copy.write_text(source, encoding="utf-8")
        stamps.append(stamp_of(sources, tmp_path / "mamex", FEEDS))
    assert stamps[0] == stamps[1] != stamps[2]


def test_refusals(toy):
    f, split = toy
    filled = replace(f, fills=dict(image=f.vectors["image"]))
    with pytest.raises(UsageError, match="takes no fills"): peer_config("milk").build(filled, split, 0)
    with pytest.raises(UsageError, match="no search space for 'milkk'; did|did you mean 'milk'"): suggest(None, "milkk")
    with pytest.raises(UsageError, match="cannot live through time"): Trainer(f, split, peer_config("milk"), life=object())
    with pytest.raises(UsageError, match="replace is 1.5"): peer_config("clcrec", replace=1.5)


# factors and floors

def test_factors_find_what_was_planted():
    "Two groups of users and items that meet inside the group only: two factors rebuild the matrix, and hidden pairs come first."
    rng = np.random.default_rng(0)
    gu, gi = np.arange(60) % 2, np.arange(40) % 2
    pairs = np.argwhere((gu[:, None] == gi) & (rng.random((60, 40)) < .6)); hide = rng.random(len(pairs)) < .2
    pad = Split(60, 40, pairs[~hide], pairs[:0], pairs[:0], np.array([], int), np.array([], int))
    p, q = factorise(pad, 2, reg=.1)
    s = p @ q.T
    assert s[gu[:, None] == gi].min() > s[gu[:, None] != gi].max()
    known = pad.matrix(dtype=bool).toarray()
    pop = known.sum(0)
    auc = lambda s: np.mean([(s[u, i] > s[u][~known[u]]).mean() for u, i in pairs[hide]])
    assert auc(s) > .65 > auc(np.broadcast_to(pop, s.shape))  # the other unmet items of the group are as good: .7 is all there is
    again = factorise(pad, 2, reg=.1)
    assert np.array_equal(p, again[0]) and np.array_equal(q, again[1])


def test_linear_cf_needs_the_factors(toy):
    f, split = toy
    score, (dim, lam), val = tune_linear_cf(f, split, f.modalities)
    got, chance = (evaluate(s, split)["ndcg@10"].mean() for s in (score, random_scorer(split)))
    assert got > 1.8 * chance and val[dim, lam] == max(val.values())
    many = LinearCF(f, split, f.modalities, dim).scorer(lam)
    assert np.allclose(many(np.arange(5), split.cold_items), score(np.arange(5), split.cold_items))


def test_oracle_is_a_ceiling_of_one_order(toy):
    _, split = toy
    top = evaluate(oracle_popularity(split, "val"), split, "val")["recall@10"].mean()
    order = np.random.default_rng(0).permutation(split.n_items)
    assert top > evaluate(lambda u, i: np.broadcast_to(order[i], (len(u), len(i))), split, "val")["recall@10"].mean()


def test_spaces_are_alike():
    "The same rate, width and source of negatives for all; what else is searched is a setting of the model."
    assert len({json.dumps([s[k] for k in ("lr", "dim", "negatives")]) for s in SPACES.values()}) == 1
    for name, space in SPACES.items(): assert set(space) <= set((preset("released") if name == "mamex" else peer_config(name)).__dict__)
    assert {"lambda_align", "lambda_adapter", "lambda_fusion", "lambda_reg"} <= set(SPACES["mamex"])



# presence

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=24, max_size=24), st.booleans())
def test_presence_orders_by_count_then_length_and_is_no_coin(rows, known):
    "More modalities first, then longer texts; for everybody the same; equals get every place as often."
    f, split = tiny()
    mask, size = np.array([r[:2] for r in rows]), np.array([r[2:] for r in rows])
    f, lengths = replace(f, mask=mask), dict(image=size[:, 0], text=size[:, 1], other=None) if known else None
    for names, cols in ((["image"], [0]), (["text"], [1]), (["image", "text"], [0, 1])):
        s = presence_scorer(f, split, names, lengths)(np.arange(14), np.arange(24))
        key = [(int(mask[i, cols].sum()), int((size * mask)[i, cols].sum()) if known else 0) for i in range(24)]
        for i in range(24):
            for j in range(24):
                if key[i] > key[j]: assert (s[:, i] > s[:, j]).all()
        assert np.isfinite(s).all() and (presence_scorer(f, split, names, lengths)(np.arange(5, 9), np.arange(24)[::-1]) == s[5:9, ::-1]).all()


def test_presence_of_what_all_have_is_chance(toy):
    f, split = toy
    f = replace(f, mask=np.ones_like(f.mask))
    got = [evaluate(presence_scorer(f, split, ["image"]), split, part)["recall@10"].mean() for part in ("val", "test")]
    assert np.allclose(got, 10 / len(split.cold_items), atol=.03)


def test_presence_finds_a_column_that_only_the_popular_have(toy):
    "The leak that it is there for: words of users, more of them for what is met more often."
    f, split = toy
    n = np.bincount(np.concatenate([split.val, split.test])[:, 1], minlength=split.n_items)
    f = Features(f.vectors | dict(tags=f.vectors["text"]), np.column_stack([f.mask, n > np.median(n[split.cold_items])]), f.encoder, f.counts)
    lines = floors(f, split, lengths=dict(tags=n))
    got = {k: evaluate(s, split, pool="own")["ndcg@10"].mean() for k, (s, _) in lines.items()}
    assert got["presence/tags"] > 1.2 * max(got["random"], got["presence/image"]) and {"presence/image", "presence/text", "presence/all"} <= set(got)


def test_lengths_are_those_of_what_is_read():
    items = pd.DataFrame(dict(item=["a", "b"], title=["Cup", None], genres=["<b>x</b>", "yy"], tags=["loved by all", ""], attributes=["1 2", None]))
    assert {k: v.tolist() for k, v in text_lengths(items, "each").items()} == dict(
        attributes=[15, 0], text=[len("Title: Cup; Genres: x"), len("Genres: yy")], title=[10, 0], genres=[9, 10])
    assert list(text_lengths(items, ["title"])) == ["attributes", "text"] and list(text_lengths(items, dict(name=["title"]))) == ["attributes", "name"]
    assert text_lengths(items.drop(columns="attributes"))["attributes"].tolist() == [0, 0]
