"""The preset `best`: one solution, no leak, absent modalities, samples of experts, and the way through the recommender."""
from dataclasses import replace
import numpy as np, pytest, torch
from scipy import sparse
from hypothesis import given, settings, strategies as st
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.vectors.features import Features
from mamex.vectors.texts import text_modalities
from mamex.protocol.folds import cold_folds
from mamex.protocol.intervals import over_splits
from mamex.protocol.metrics import evaluate
from mamex.trainer import load_model, preset
from mamex.recommender.core import Recommender
from mamex.extractor import extract
from mamex.experts import SolvedMAMEX, distinct, gathered
from mamex.solved import Solved
from mamex.tastes import collaborative, damped
from mamex.vectors.lexical import column_roles, lexical_views, with_lexical, with_views
from mamex.protocol.splits import Split, cold_split
from mamex.trainer import fit


def world(seed, n_users=40, n_items=60, widths=(5, 7), absent=.2):
    "Items in taste clusters, users who like one or two of them, vectors that tell the cluster."
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, 4, n_items)
    pairs = np.array([(u, i) for u in range(n_users) for i in range(n_items) if rng.random() < (.5 if taste[i] == u % 4 else .05)])
    cold = rng.permutation(n_items)[:16]
    val, test = np.sort(cold[:8]), np.sort(cold[8:])
    a, b = np.isin(pairs[:, 1], val), np.isin(pairs[:, 1], test)
    mask = rng.random((n_items, len(widths))) > absent
    mask[taste == 0, 0] = True
    vectors = {f"m{k}": np.where(mask[:, k, None], np.eye(d)[taste] + .3 * rng.normal(size=(n_items, d)), 0).astype(np.float32) for k, d in enumerate(widths)}
    words = sparse.csr_array(np.where(rng.random((n_items, 1)) > absent, np.eye(4)[taste].repeat(3, 1) * rng.poisson(2, (n_items, 12)) + rng.poisson(.2, (n_items, 12)), 0).astype(np.float32)); words.eliminate_zeros()
    numbers = np.where(rng.random(n_items) > absent, taste + .2 * rng.normal(size=n_items), np.nan).astype(np.float32)
    return with_views(Features(vectors, mask, "made up", {}), {"w.1 words": words}, {"n number": numbers}), Split(n_users, n_items, pairs[~(a | b)], pairs[a], pairs[b], val, test)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), reach=st.sampled_from([0., .5, 1., 4.]))
def test_the_experts_system_is_a_kernel(seed, reach):
    f, split = world(seed)
    experts, group = distinct(f, split)
    m = SolvedMAMEX({m: v.shape[1] for m, v in f.vectors.items()}, split.n_users, Solved(reach=reach, dim=8), len(experts), f.words, f.numbers)
    c = m.appoint(f, experts, split.warm_items); them = c.take(torch.as_tensor(experts))
    for _ in range(2):  # with equal weights, and with those that were found
        k = m.say(them).double(); heard = m.heard(them.has).any(1).double()
        assert torch.allclose(k, k.T, atol=1e-6) and torch.linalg.eigvalsh(k).min() > -1e-5
        if reach: assert torch.allclose(k.diagonal(), heard, atol=1e-5)
        m.weigh(them, gathered(group) @ damped(split, 0.))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), copies=st.integers(2, 5))
def test_twins_are_one_expert(seed, copies):
    "Warm items that stand several times: one expert for each group, and the answers of the system that writes them all out."
    f, split = world(seed)
    twin = split.warm_items[:copies]
    f = Features({m: np.where(np.isin(np.arange(len(v)), twin)[:, None], v[twin[0]], v) for m, v in f.vectors.items()}, f.mask.copy(), "made up", {}); f.mask[twin] = f.mask[twin[0]]
    if not f.mask[twin[0]].any(): return
    run = fit(f, split, c := preset("best", damp=.3, memory=0., weights="equal"))
    items, group = distinct(f, split)
    assert len(run.model.answers) == len(items) and (group[:copies] == group[0]).all()
    with pytest.MonkeyPatch.context() as m:
        alone = lambda f, split: ((w := split.warm_items[f.known[split.warm_items]]), np.where(f.known[split.warm_items], np.cumsum(f.known[split.warm_items]) - 1, -1))
        m.setattr("mamex.solved.distinct", alone)
        whole = fit(f, split, c)
    assert len(whole.model.answers) > len(items) and torch.allclose(whole.items().e, run.items().e, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_of_a_cold_item_reaches_training(seed):
    "With one damping, neither validation nor test items; where validation chooses it, no test items."
    f, split = world(seed)
    rng = np.random.default_rng(seed)
    for c, unseen, hidden in ((preset("best", damp=.3, memory=.1), split.cold_items, dict(val=split.val[:0], test=split.test[:0])), (preset("best"), split.test_items, dict(test=split.test[:0]))):
        other = {m: v.copy() for m, v in f.vectors.items()}
        for v in other.values(): v[unseen] = rng.normal(size=(len(unseen), v.shape[1]))
        words = f.words["w.1 words"].toarray(); words[unseen] = rng.poisson(1, (len(unseen), words.shape[1]))
        words, numbers = sparse.csr_array(words), f.numbers["n number"].copy(); words.eliminate_zeros()
        numbers[unseen] = rng.normal(size=len(unseen))
        other = replace(f, vectors=other, words={"w.1 words": words}, numbers={"n number": numbers})
        run, again = fit(f, split, c), fit(other, replace(split, **hidden), c)
        for k, v in run.model.state_dict().items(): assert torch.equal(v.nan_to_num(), again.model.state_dict()[k].nan_to_num()), k


def test_validation_chooses_the_damping():
    "The one that ranks the validation items best by themselves; the model of one damping is that of the same among several."
    f, split = world(3)
    alone = {a: fit(f, split, preset("best", damp=a, memory=0.)) for a in preset("best").damp}
    run = fit(f, split, preset("best", memory=0.))
    assert run.history[0]["damp"] == max(alone, key=lambda a: alone[a].history[0]["val_own/ndcg@10"]) == run.model.config.damp
    with pytest.MonkeyPatch.context() as m:
        m.setattr(SolvedMAMEX, "block", 3)  # items pass piece by piece
        assert fit(f, split, preset("best", memory=0.)).model.config.damp == run.model.config.damp
    assert np.allclose(run.items().e, alone[run.model.config.damp].items().e, atol=1e-4)
    assert fit(f, replace(split, val=split.val[:0]), preset("best", damp=[0., .5, 1.])).model.config.damp == .5


def test_validation_chooses_the_memory():
    "Among several shares as among dampings; where a share helps on validation, it is taken."
    for seed in range(4):
        f, split = world(seed)
        shares = (0., .5, 1.)
        alone = {m: fit(f, split, preset("best", damp=.3, memory=m)).history[0]["val_own/ndcg@10"] for m in shares}
        assert fit(f, split, preset("best", damp=.3, memory=shares)).model.config.memory == max(alone, key=alone.get)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_an_item_lacks_says_nothing(seed):
    f, split = world(seed)
    run = fit(f, split, preset("best"))
    rubbish = {m: np.where(f.mask[:, k, None], v, 1e3).astype(np.float32) for k, (m, v) in enumerate(f.vectors.items())}
    assert torch.equal(run.items().e, run.items(replace(f, vectors=rubbish)).e)
    assert not run.items().e[~f.known].any()


def test_items_do_not_depend_on_their_neighbours_or_on_the_block():
    f, split = world(3)
    run = fit(f, split, preset("best"))
    whole = run.items().e
    run.model.block = 7
    assert torch.allclose(run.items().e, whole, atol=1e-6)
    assert torch.allclose(run.model(run.catalogue, torch.tensor([9, 2])).e, whole[[9, 2]], atol=1e-6)


def test_a_solved_model_ranks_far_above_chance():
    "On the made-up world, where the cluster is all that there is to know."
    gain = []
    for seed in range(5):
        f, split = world(seed)
        score = fit(f.dense, split, preset("best")).scorer()
        chance = np.mean([evaluate(lambda u, i: np.random.default_rng(s).random((len(u), len(i))), split, "test", "joint")["ndcg@10"].mean() for s in range(20)])
        gain.append(evaluate(score, split, "test", "joint")["ndcg@10"].mean() / chance)
    assert min(gain) > 1.5, gain


def test_a_sample_of_experts_comes_near_to_all_of_them():
    ds = load_dataset("toy"); split, f = cold_split(ds), extract(ds)
    all_, half = (fit(f, split, preset("best", n_experts=n, damp=.3, memory=0.)) for n in (4096, 160))
    a, b = ((r.items().e @ r.model.users.T)[split.test_items].flatten().numpy() for r in (all_, half)); half = half.model
    assert np.corrcoef(a, b)[0, 1] > .95 and len(half.answers) == 160
    assert torch.equal(half.answers, fit(f, split, preset("best", n_experts=160, damp=.3, memory=0.)).model.answers)
    assert not torch.equal(half.answers, fit(f, split, preset("best", n_experts=160, damp=.3, memory=0.), 1).model.answers)  # another seed draws others


def test_who_met_nothing_is_the_average_user():
    f, split = world(5)
    gone = replace(split, train=split.train[split.train[:, 0] != 0])
    users, _ = collaborative(gone, Solved(damp=.3, memory=0.))
    assert np.allclose(users[0], users[np.unique(gone.train[:, 0])].mean(0), atol=1e-6)


def test_memory_mapped_vectors_give_the_same(tmp_path):
    f, split = world(7)
    for m, v in f.vectors.items(): np.save(tmp_path / f"{m}.npy", v)
    mapped = replace(f, vectors={m: np.load(tmp_path / f"{m}.npy", mmap_mode="r", allow_pickle=False) for m in f.vectors})
    a, b = (fit(x, split, preset("best")) for x in (f, mapped))
    assert torch.equal(a.model.answers, b.model.answers) and torch.equal(a.items().e, b.items().e)


@pytest.mark.parametrize("bad, says", [(dict(dim=0), "dim is 0"), (dict(ridge=0.), "ridge is 0"), (dict(reach=float("nan")), "reach is nan"), (dict(n_experts=2.), "n_experts is 2.0"),
                                       (dict(memory=2.), "memory is 2.0"), (dict(weights="none"), "weights is 'none'"), (dict(damp=()), "damp is empty")])
def test_bad_settings_are_named(bad, says):
    with pytest.raises(UsageError, match=says): preset("best", **bad)


def test_unknown_settings_of_best_are_named():
    with pytest.raises(UsageError, match="unknown setting 'ridges'; did you mean 'ridge'"): preset("best", ridges=1.)


def test_features_that_say_nothing_are_refused():
    f, split = world(1)
    with pytest.raises(UsageError, match="no warm item has a vector"): fit(replace(f, mask=np.zeros_like(f.mask), words={}, numbers={}), split, preset("best"))


def test_a_recommender_of_best_goes_to_disk_and_takes_new_items(tmp_path):
    ds = load_dataset("toy")
    rec = Recommender.fit(ds, "tiny", "best", progress=False)
    words = lexical_views(ds.items, column_roles(ds.items))[0]
    assert rec.model.modalities == ["image", *text_modalities(ds.items), *words] and "title pieces" in words
    chosen = Recommender.fit(ds, "tiny", "best", refit=False, progress=False).model.config.damp
    assert rec.model.config.damp == chosen in preset("best").damp  # the training on everything, which has nothing to ask, keeps it
    back = Recommender.load(rec.save(tmp_path / "rec"))
    t = ds.items.iloc[5]
    with pytest.warns(UserWarning, match="'mute'"):
        back.add_items([dict(item="twin", title=t["title"], description=t["description"]), dict(item="mute")], {"twin": ds.images.read(t["item"])})
    row = back.rows_of(["twin", t["item"]])
    assert np.allclose(*back.e[row], atol=1e-5)
    top = back.recommend(list(back.user_ids[:3]), k=2)
    assert set(top["item"]) == {"twin"} and back.refused == ["mute"] and np.isfinite(top["score"]).all()
    assert str(t["item"]) in set(back.explain("twin").neighbours["item"])
    model = load_model(tmp_path / "rec" / "model.safetensors")
    f = with_lexical(extract(ds, "tiny", text_columns="each"), ds.items, column_roles(ds.items))
    assert model(model.catalogue(f)).e.shape == (ds.n_items, model.config.dim) and model.config.dim <= preset("best").dim


def test_noise_costs_nothing_that_can_be_told():
    "Five modalities of noise beside the toy's own, over folds: none is heard as loud as what tells, and the ranking stays."
    ds = load_dataset("toy"); f = extract(ds, "tiny"); rng = np.random.default_rng(0)
    noise = {f"noise {k}": rng.normal(size=(ds.n_items, 32)).astype(np.float32) for k in range(5)}
    loud = replace(f, vectors=f.vectors | noise, mask=np.concatenate([f.mask, np.ones((ds.n_items, 5), bool)], 1))
    splits, c = cold_folds(ds), preset("best", damp=.3, memory=0.)
    own = lambda f: np.array([evaluate(fit(f, s, c).scorer(), s, "test", "own")["ndcg@10"].mean() for s in splits])
    quiet, noisy = own(f), own(loud)
    weight = fit(loud, splits[0], c).model.weight
    assert weight[2:].max() < .2 * weight[:2].min()
    assert abs((noisy - quiet).mean()) < .05 * quiet.mean(), (quiet.mean(), noisy.mean())


def test_an_interval_over_splits_is_wider_than_one_over_users_alone():
    import pandas as pd
    rng = np.random.default_rng(0)
    shifts = rng.normal(0, .2, 5)
    a = [pd.Series(rng.normal(s, .1, 400)) for s in shifts]
    b = [pd.Series(np.zeros(400)) for _ in shifts]
    wide, narrow = over_splits(a, b)["ci95"], over_splits(a[:1], b[:1])["ci95"]
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
