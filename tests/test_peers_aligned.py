"""CLCRec, GAR, AlignRec and MILK: their losses by numbers from another hand.

Each transcription is written in numpy from the published formula, row by row as the published code goes through a batch, with
repetitions, and knows nothing of ours but the weights and the random draws. Every term counts, on made numbers, to 1e-6.
"""
from dataclasses import replace
import numpy as np, pytest, torch
from mamex.protocol.splits import Split
from mamex.rivals.aligned import FIDELITY_ALIGNED, Unmet, environments, scores_at
from mamex.rivals.floors import factors
from mamex.rivals.graphs import FIDELITY_GRAPHS, content_graph
from mamex.rivals.peers import FIDELITY, PEERS, SPACES, peer_config
from mamex.trainer import Trainer, fit
from mamex.vectors.features import Features

N_USERS, N_ITEMS, COLD, WIDTHS, D = 14, 40, 8, (6, 5), 4
CLOSE = dict(rtol=1e-6, atol=1e-9)


def made(seed=0, whole=False):
    "Users, items, vectors of two modalities by chance; the last eight items are cold; an item without a picture, one without anything."
    rng = np.random.default_rng(seed)
    met = rng.random((N_USERS, N_ITEMS)) < .25
    met[np.arange(N_USERS), np.arange(N_USERS)] = True
    met[np.arange(N_ITEMS) % N_USERS, np.arange(N_ITEMS)] = True
    pairs, cold = np.argwhere(met), np.arange(N_ITEMS - COLD, N_ITEMS)
    val, test = cold[::2], cold[1::2]
    part = lambda items: pairs[np.isin(pairs[:, 1], items)]
    mask = np.ones((N_ITEMS, 2), bool)
    if not whole: mask[0, 0] = False; mask[3] = False
    vectors = {m: rng.normal(size=(N_ITEMS, w)).astype("float32") for m, w in zip(("image", "text"), WIDTHS)}
    f = Features(vectors, mask, "made", dict(image={}, text={}))
    return f, Split(N_USERS, N_ITEMS, pairs[pairs[:, 1] < N_ITEMS - COLD], part(val), part(test), val, test)


U, I, J = np.array([0, 1, 1, 5, 3, 0]), np.array([0, 1, 2, 2, 3, 0]), np.array([7, 9, 4, 12, 19, 2])  # repeats, items that lack


def model(name, whole=False, **settings):
    "Built, trained a little, so that no weight is where it began, and in double precision."
    f, split = made(whole=whole)
    t = Trainer(f, split, peer_config(name, dim=D, batch_size=64, lr=1e-2, negatives="warm", **settings))
    for _ in range(3): t.epoch()
    m = t.model.double().eval()
    w = {k: v.detach().numpy() for k, v in [*m.named_parameters(), *m.named_buffers()] if not v.is_sparse}
    return m, w, f, split


def said(m, u=U, i=I, j=J, seed=0):
    torch.manual_seed(seed)
    parts, _ = m.losses(None, *map(torch.as_tensor, (u, i, j)), None)
    return {k: v.item() for k, v in parts.items()}, m.total(parts).item()


def linear(w, name, x): return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
def leaky(x): return np.where(x > 0, x, .01 * x)
def softplus(x): return np.logaddexp(0, x)
def sigmoid(x): return 1 / (1 + np.exp(-x))
def length(x): return np.sqrt((x**2).sum(-1))
def unit(x): return x / np.maximum(length(x), 1e-12)[..., None]


# CLCRec

@pytest.mark.parametrize("rho", [0., .5, 1.])
def test_clcrec(rho):
    "Scores of (1 + n) items a row, their replaced places, half the mean lengths."
    m, w, f, split = model("clcrec", replace=rho, num_neg=5, hidden=7, temperature=.4, lambda_content=.3, lambda_reg=.2)
    torch.manual_seed(0)
    negatives = m.unmet(torch.as_tensor(U), 5).numpy()
    items = np.c_[I, negatives]
    place = torch.randint(items.size, (int(items.size * rho),)).numpy()
    rows = items.ravel()
    code = linear(w, "encoder.2", leaky(linear(w, "encoder.0", w["content"])))
    feat, embed = code[rows], w["ids"][rows]
    mixed = embed.copy()
    mixed[place] = feat[place]
    def contrastive(anchor, against):
        e = np.exp((anchor * against).sum(1) / .4).reshape(-1, 6)
        return -np.log(e[:, 0] / e.sum(1)).mean()
    anchor = np.repeat(w["ids"][I], 6, 0)
    users = np.repeat(w["users"][U], 6, 0)
    want = dict(content=contrastive(unit(anchor), unit(feat)), user=contrastive(users, mixed),
                reg=(length(users).mean() + length(embed).mean()) / 2)
    parts, total = said(m)
    for k, v in want.items(): assert np.isclose(parts[k], v, **CLOSE), k
    assert np.isclose(total, .3 * want["content"] + .7 * want["user"] + .2 * want["reg"], **CLOSE)


def test_clcrec_negatives_are_a_rows_own():
    f, split = made()
    m = peer_config("clcrec", dim=D).build(f, split, 0)
    met = split.matrix(dtype=bool).toarray()
    j = m.unmet(torch.as_tensor(U), 300).numpy()
    for u, row in zip(U, j):
        assert not met[u, row].any() and set(row) == set(np.flatnonzero(~met[u, :N_ITEMS - COLD]))
    assert (j[0] != j[-1]).any() and U[0] == U[-1]  # two rows of one user
    open_ = peer_config("clcrec", dim=D, negatives="all").build(f, split, 0).unmet(torch.as_tensor(U), 300).numpy()
    assert set(split.cold_items) <= set(open_.ravel())


def test_clcrec_replaces_with_repetition():
    m = model("clcrec", replace=.5)[0]
    share = m.as_content(torch.zeros(400, 129, dtype=torch.int64)).double().mean().item()
    assert np.isclose(share, 1 - np.exp(-.5), atol=.01)
    assert m.as_content(torch.full((2, 3), N_ITEMS - 1)).all()  # a cold item has nothing but its content


def test_scores_are_the_same_by_either_way():
    a, b, rows, cols = torch.randn(30, 3).double(), torch.randn(200, 3).double(), torch.randint(30, (60,)), torch.randint(200, (60, 7))
    want = (a @ b.T)[rows.unsqueeze(1), cols]
    assert len(a) * len(b) < 16 * cols.numel() and torch.allclose(scores_at(a, rows, b, cols), want)
    assert len(a) * len(b) > 16 * cols[:, :1].numel() and torch.allclose(scores_at(a, rows, b, cols[:, :1]), want[:, :1])


# GAR

def gar_tower(w, name, x, first, training):
    "Dense, batch normalisation, tanh, dense; with `first`, the input is normalised before, and not scaled."
    def norm(n, x, scaled):
        mean, var = (x.mean(0), x.var(0)) if training else (w[f"{name}.{n}.running_mean"], w[f"{name}.{n}.running_var"])
        return (x - mean) / np.sqrt(var + 1e-3) * (w[f"{name}.{n}.weight"] if scaled else 1) + w[f"{name}.{n}.bias"]
    k = 0
    if first: x, k = norm(0, x, False), 1
    return linear(w, f"{name}.{k + 4}", np.tanh(norm(k + 1, linear(w, f"{name}.{k}", x), True)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("turn", [0, 1, None])
def test_gar(turn, training):
    "In training without dropout, on users and items that stand once: normalisation by the batch, three stacked blocks of items."
    m, w, f, split = model("gar", hidden=5, alpha=.3, beta=.2, mf_reg=.05, lambda_reg=.01, in_turn=turn is not None)
    u, i, j = (np.array([0, 1, 2, 5, 3]), np.array([0, 1, 2, 6, 3]), np.array([7, 9, 4, 12, 19])) if training else (U, I, J)
    if turn is not None: m.turn.fill_(turn)
    for layer in m.modules():
        if isinstance(layer, torch.nn.Dropout): layer.p = 0.
    m.train(training)
    w = {k: v.copy() for k, v in w.items()}  # running statistics move
    p, q = (x / np.sqrt((x[x.any(1)]**2).mean()) for x in factors(split, D, 10., .05, 0))
    p, q = p.astype("float32").astype(float), q.astype("float32").astype(float)
    ranks, makes = training and turn in (0, None), training and turn in (1, None)
    fake = gar_tower(w, "generator", w["content"][i], False, False)
    users = gar_tower(w, "of_user", np.tile(p[u], (3, 1)), True, ranks)
    items = gar_tower(w, "of_item", np.concatenate([q[i], q[j], fake]), True, ranks)
    real, less, fooled = (users * items).sum(1).reshape(3, -1)
    made_ = gar_tower(w, "generator", w["content"][i], False, makes)
    parts, total = said(m, u, i, j)
    after = w | {k: v.numpy() for k, v in m.named_buffers()}  # the generator is judged by statistics that the ranker's step has moved
    judge = lambda v: (gar_tower(after, "of_user", p[u], True, False) * gar_tower(after, "of_item", v, True, False)).sum(1)
    squares = lambda *names: sum((w[f"{n}.{k}.weight"]**2).sum() for n, k in names)
    want = dict(ranker=softplus(-(real - .8 * fooled - .2 * less)).mean(), fooling=softplus(-(judge(made_) - judge(q[i]))).mean(),
                similar=np.abs(made_ - q[i]).mean(), reg_generator=squares(("generator", 0), ("generator", 4)),
                reg_ranker=squares(*((n, k) for n in ("of_user", "of_item") for k in (1, 5))))
    assert set(parts) == set(want)
    for k, v in want.items(): assert np.isclose(parts[k], v, **CLOSE), k
    weights = dict(ranker=1, fooling=.7, similar=.3, reg_ranker=.01, reg_generator=.01)
    assert np.isclose(total, sum(weights[k] * want[k] for k in want), **CLOSE)


def test_gar_takes_turns_and_who_rests_stands_still():
    f, split = made()
    t = Trainer(f, split, peer_config("gar", dim=D, hidden=5, batch_size=64))
    sides = dict(ranker=("of_user", "of_item"), generator=("generator",))
    state = lambda side: [v.clone() for k, v in t.model.state_dict().items() if k.split(".")[0] in sides[side]]
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a, b))
    t.model.train()
    for turn in (0, 1, 0, 1):
        before = {s: state(s) for s in sides}
        t.step(np.stack([U, I, J]))
        assert [same(before[s], state(s)) for s in sides] == [turn == 1, turn == 0]  # statistics of normalisation as well


# AlignRec

def alignrec_graphs(f, split, content, k):
    "Both graphs dense, as the published functions build them; neighbours are warm."
    R = np.zeros((N_USERS, N_ITEMS))
    R[split.train[:, 0], split.train[:, 1]] = 1
    A = np.block([[np.zeros((N_USERS, N_USERS)), R], [R.T, np.zeros((N_ITEMS, N_ITEMS))]])
    d = A.sum(1)
    with np.errstate(divide="ignore"): d = np.where(d > 0, d**-.5, 0)
    A = d[:, None] * A * d
    sim = unit(content) @ unit(content).T
    near, warm = np.zeros_like(sim), split.warm_items
    for n in range(N_ITEMS):
        best = warm[np.argsort(-sim[n, warm], kind="stable")[:k]]
        near[n, best] = np.maximum(sim[n, best], 0)
    e = near.sum(1)
    with np.errstate(divide="ignore"): e = np.where(e > 0, e**-.5, 0)
    return A, A[:N_USERS, N_USERS:], e[:, None] * near * e


@pytest.mark.parametrize("layers", [1, 2])
def test_alignrec(layers):
    m, w, f, split = model("alignrec", layers=layers, knn=4, lambda_contrast=.2, lambda_similar=.3, lambda_user=.4, lambda_reg=.1, temperature=.5)
    A, R, near = alignrec_graphs(f, split, w["content"], 4)
    ids = np.where(np.isin(np.arange(N_ITEMS), split.warm_items)[:, None], w["ids"], 0)
    side = ids * sigmoid(linear(w, "purifier", linear(w, "reader", w["content"])))
    for _ in range(layers): side = near @ side
    ego = [np.r_[w["users"], ids]]
    for _ in range(2): ego.append(A @ ego[-1])
    graph, both = np.mean(ego, 0), np.r_[R @ side, side]
    users, items = (graph + both)[:N_USERS], (graph + both)[N_USERS:]
    u, i, j = users[U], items[I], items[J]
    def nce(a, b):
        a, b = unit(a), unit(b)
        return -np.log(np.exp((a * b).sum(1) / .5) / np.exp(a @ b.T / .5).sum(1)).mean()
    gap = side[I] @ side[I].T - unit(w["content"][I]) @ unit(w["content"][I]).T
    want = dict(bpr=softplus((u * (j - i)).sum(1)).mean(),
                contrast=nce(side[I], graph[N_USERS:][I]) + nce(both[:N_USERS][U], graph[:N_USERS][U]),
                similar=np.linalg.norm(gap) / len(I),
                user=(1 - (unit(u) * unit(i)).sum(1)).mean(),
                reg=((u**2).sum() / 2 + (i**2).sum() / 2 + (j**2).sum() / 2) / len(U))
    parts, total = said(m)
    assert set(parts) == set(want)
    for k, v in want.items(): assert np.isclose(parts[k], v, rtol=1e-6, atol=2e-7), (k, parts[k], v)  # the graphs are kept in single precision
    assert np.isclose(total, want["bpr"] + .2 * want["contrast"] + .3 * want["similar"] + .4 * want["user"] + .1 * want["reg"], rtol=1e-6)
    score = m.float().scorer()(np.arange(N_USERS), np.arange(N_ITEMS))
    known = f.mask.any(1) | np.isin(np.arange(N_ITEMS), split.warm_items)
    assert np.allclose(score[:, known], (users @ items.T)[:, known], atol=1e-5)


def test_a_cold_item_of_alignrec_moves_with_its_content():
    "Another content, other neighbours: what the cold item is then, a warm one's content alone decides."
    f, split = made(whole=True)
    m = fit(f, split, peer_config("alignrec", dim=D, knn=1, batch_size=64, epochs=5, eval_every=5), progress=False).model
    cold, warm = split.cold_items[0], split.warm_items[[2, 9]]
    for twin in warm:
        vectors = {k: v.copy() for k, v in f.vectors.items()}
        for v in vectors.values(): v[cold] = v[twin]
        _, (_, items) = m.over(m.catalogue(replace(f, vectors=vectors))).sides()
        assert torch.allclose(items[cold], items[twin], atol=1e-6) and items[cold].abs().sum() > 0
    graph = content_graph(m.content, m.warm, 3).to_dense().numpy()
    assert not graph[:, split.cold_items].any() and (graph > 0).sum(1).max() == 3


# MILK

def test_milk():
    m, w, f, split = model("milk", lambda_variance=30., lambda_align=.2, concentration=.5, lambda_reg=.1)
    image, text = (linear(w, f"encoders.{n}", x) for n, x in enumerate(np.split(w["content"], [WIDTHS[0]], 1)))
    torch.manual_seed(0)
    (a, b) = environments(2, .5)[1].double().numpy()
    losses, norms = [], []
    for x, y in ((.5, .5), (a, b), (b, a)):
        share = np.array([x, y]) * f.mask
        share = share / np.maximum(share.sum(1, keepdims=True), 1e-12)  # as published where an item has both
        items = share[:, :1] * image + share[:, 1:] * text
        u, i, j = w["users"][U], items[I], items[J]
        losses.append(softplus((u * (j - i)).sum(1)).mean())
        norms.append(((u**2).sum(1) + (i**2).sum(1) + (j**2).sum(1)).mean())
    met = [k for k in np.unique(I) if f.mask[k].all()]
    want = dict(bpr=np.mean(losses), variance=np.var(losses, ddof=1), align=((image[met] - text[met])**2).mean(), reg=norms[0])
    parts, total = said(m)
    for k, v in want.items(): assert np.isclose(parts[k], v, rtol=1e-6, atol=1e-8), (k, parts[k], v)
    assert np.isclose(total, sum(losses) + 30 * want["variance"] + .2 * want["align"] + .1 * want["reg"], rtol=1e-6)


# cards

@pytest.mark.parametrize("name", ["clcrec", "gar", "alignrec", "milk"])
def test_fidelity_cards_say_what_is_there_and_what_is_not(name):
    card = FIDELITY[name]
    assert card == (FIDELITY_ALIGNED | FIDELITY_GRAPHS)[name] and set(card) == {"repository", "commit", "published", "here", "missing"}
    assert len(card["commit"]) == 7 and card["repository"].count("/") == 1
    for part in ("published", "here", "missing"):
        assert card[part] and all(s.endswith(".") and len(s) < 160 for s in card[part])


@pytest.mark.parametrize("name, knobs", dict(
    clcrec={"lambda_content", "replace", "temperature", "num_neg", "lambda_reg"}, gar={"alpha", "beta", "lambda_reg", "in_turn"},
    alignrec={"lambda_contrast", "lambda_similar", "lambda_user", "layers", "knn"},
    milk={"lambda_variance", "lambda_align", "concentration", "lambda_reg"}).items())
def test_what_the_published_code_turns_is_searched_around_its_values(name, knobs):
    "And the starting value lies within the range."
    space = SPACES[name]
    assert knobs <= set(space) and name in PEERS
    for k, (kind, *how) in space.items():
        v = getattr(peer_config(name), k)
        assert v in how[0] if kind == "choice" else how[0] <= v <= how[1], (k, v)


def test_unmet_ends_where_one_item_is_left():
    pairs = np.array([(0, i) for i in range(9)] + [(1, 0)])
    unmet = Unmet(Split(3, 10, pairs, pairs[:0], pairs[:0], np.array([], int), np.array([], int)), np.arange(10))
    j = unmet(torch.tensor([0, 2, 1]), 50)
    assert (j[0] == 9).all() and len(j[1].unique()) == 10 and 0 not in j[2]
