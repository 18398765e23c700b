"""DropoutNet, MetaEmbed and MTPR against their published formulas, written once more in numpy.

The references below take weights, a batch and what chance drew; they share no code with the models.
"""
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.extractor import Extractor
from mamex.datasets.toy import toy as make_toy
from mamex.protocol.metrics import evaluate
from mamex.protocol.splits import cold_split
from mamex.rivals.absent import FIDELITY_ABSENT, Tasks
from mamex.rivals.floors import factors, random_scorer
from mamex.rivals.interface import FactorisationMachine, top_scored
from mamex.rivals.peers import SPACES, peer_config
from mamex.trainer import fit
from test_baselines import tiny

NAMES = ["dropoutnet", "metaembed", "mtpr"]
TRIPLES = np.array([[0, 1, 2, 5, 3, 8], [0, 1, 2, 2, 3, 5], [7, 2, 4, 12, 19, 22]])  # the last negative is cold


def built(name, **more):
    "A model on the tiny set in double precision, its weights drawn anew so that every term counts."
    f, split = tiny()
    torch.manual_seed(1)
    m = peer_config(name, dim=4, negatives="all", **more).build(f, split, 0).double()
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for n, w in m.named_parameters(): w.copy_(torch.as_tensor(rng.normal(size=w.shape) * .7))
    return m, f, split


def step(m, seed=0):
    torch.manual_seed(seed)
    parts, _ = m.losses(None, *map(torch.as_tensor, TRIPLES), None)
    return {k: v.item() for k, v in parts.items()}, m.total(parts).item()


def content(f):
    "Unit vectors side by side, zeros where absent."
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    return np.concatenate([unit(v.astype(float)) * f.mask[:, [n]] for n, v in enumerate(f.vectors.values())], 1)


def close(got, want):
    parts, total = want
    assert set(got[0]) == set(parts)
    for k, v in parts.items(): assert abs(got[0][k] - v) < 1e-6, (k, got[0][k], v)
    assert abs(got[1] - total) < 1e-6


# MTPR

def mtpr_published(P, Q, W, weu, wei, x, u, i, j, wd):
    "The sum over a batch of four pairwise losses and of the decays, as in mtpr.py of the repository."
    def score(users, items, cold):
        q = np.zeros_like(Q[items]) if cold else Q[items]
        return np.sum((P[users] @ weu) * (np.concatenate([q, x[items] @ W], axis=1) @ wei), axis=1)
    loss = lambda a, b: np.sum(-np.log(1 / (1 + np.exp(-(score(u, i, a) - score(u, j, b))))))
    tasks = {(a, b): loss(a, b) for a in (False, True) for b in (False, True)}
    decay = (wd[0] * (np.sum(P[u]**2) + np.sum(Q[i]**2) + np.sum(Q[j]**2)) + wd[1] * (np.sum(W**2) + np.sum(weu**2))
             + wd[2] * np.sum(wei**2))
    return tasks, sum(tasks.values()) + decay


def test_mtpr_is_the_published_loss():
    m, f, split = built("mtpr", lambda_reg=.03, lambda_content=.02, lambda_projection=.05)
    P, Q, W, weu, wei = (w.detach().numpy().copy() for w in (m.users, m.ids, m.encoder, m.of_user, m.of_item))
    Q[split.cold_items] = 0                                                   # as the published BPR leaves them
    u, i, j = TRIPLES
    tasks, total = mtpr_published(P, Q, W, weu, wei, m.content.numpy(), u, i, j, (.03, .02, .05))
    got, mine = step(m)
    assert abs(mine - total / 6) < 1e-6 and abs(got["bpr"] - tasks[False, False] / 6) < 1e-6
    assert abs(got["counterfactual"] - sum(v for k, v in tasks.items() if any(k)) / 6) < 1e-6
    assert np.allclose(m.content.numpy(), content(f), atol=1e-6)
    cold = (P @ weu) @ (np.concatenate([np.zeros((2, 4)), m.content.numpy()[-2:] @ W], 1) @ wei).T
    assert np.allclose(m.scorer()(np.arange(14), np.array([22, 23])), cold, atol=1e-5)


# DropoutNet

def dropoutnet_published(layers_u, layers_v, P, Q, p, q, x, users, items, drop_u, drop_v):
    "Mean squared error of two networks of (linear, batch statistics, tanh) layers, with dropped factors replaced by 0."
    def network(h, layers):
        *inner, last = layers
        for w, b, scale, shift in inner:
            h = h @ w.T + b
            h = np.tanh((h - h.mean(0)) / np.sqrt(h.var(0) + .001) * scale + shift)
        return h @ last[0].T + last[1]
    pu, qi = p[users].copy(), q[items].copy()
    pu[drop_u] = 0; qi[drop_v] = 0
    U, V = network(pu, layers_u), network(np.concatenate([qi, x[items]], axis=1), layers_v)
    preds, target = np.sum(U * V, axis=1), np.array([P[a] @ Q[b] for a, b in zip(users, items)])
    return np.mean((preds - target)**2), np.mean(np.sum(U**2, 1) + np.sum(V**2, 1))


def standardised(x, rows):
    mean, sd = x[rows].mean(0), x[rows].std(0)
    out = np.zeros_like(x)
    out[rows] = np.clip((x[rows] - mean) / sd, -5, 5)
    return out


def test_dropoutnet_is_the_published_loss():
    m, f, split = built("dropoutnet", hidden=7, second=5, mf_dim=3, mf_reg=.05, lambda_reg=.1, dropout=.5, user_dropout=.34)
    m.train()
    torch.manual_seed(0)
    users, items = (t.numpy() for t in m.targets(6))
    drop_u, drop_v = (np.flatnonzero(m.kept(6, s).numpy()[:, 0] == 0) for s in (.34, .5))
    assert (len(drop_u), len(drop_v)) == (2, 3)                               # floors of shares
    P, Q = factors(split, 3, 10., .05, 0)
    x = np.zeros((24, 11))
    for n, (cols, unit) in enumerate(zip((slice(0, 6), slice(6, 11)), np.split(content(f), [6], 1))):
        has = f.mask[:, n]; warm = has & ~np.isin(np.arange(24), split.cold_items)
        x[:, cols] = np.where(has[:, None], np.clip((unit - unit[warm].mean(0)) / unit[warm].std(0), -5, 5), 0)
    def layers(net):
        w = [v.detach().numpy() for v in net.parameters()]
        return [w[0:4], w[4:8], w[8:10]]
    mse, lengths = dropoutnet_published(layers(m.f_user), layers(m.f_item), P, Q,
                                        standardised(P, np.unique(split.train[:, 0])), standardised(Q, split.warm_items),
                                        x, users, items, drop_u, drop_v)
    (got, total) = step(m)
    # factors and standardised content are kept in single precision
    assert abs(got["rebuild"] - mse) < 1e-6 * max(1, mse) and abs(got["reg"] - lengths) < 1e-6 * lengths
    assert abs(total - mse - .1 * lengths) < 1e-6 * total


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_targets_are_top_scored_and_random(negatives):
    "Every user alike; half of the items among the user's best, half from all that may be drawn."
    f, split = tiny()
    m = peer_config("dropoutnet", dim=4, mf_dim=3, negatives=negatives, top_share=.2).build(f, split, 0)
    torch.manual_seed(0)
    users, items = (t.numpy() for t in m.targets(4000))
    pool = split.warm_items if negatives == "warm" else np.arange(24)
    P, Q = (t.numpy() for t in (m.P, m.Q))
    least = np.sort(P @ Q[pool].T, 1)[:, -round(.2 * len(pool))]              # many items score alike
    assert ((P[users] * Q[items]).sum(1) > least[users] - 1e-5)[:2000].all()
    assert set(items[2000:]) == set(pool) and np.bincount(items[2000:], minlength=24)[pool].min() > .6 * 2000 / len(pool)
    assert np.bincount(users).min() > .7 * 4000 / 14
    assert (m.Q[torch.as_tensor(split.cold_items)] == 0).all()                # a cold item's target is 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 60))
def test_top_scored_in_pieces(n_users, n_items, size):
    p, q, n = torch.randn(n_users, 3), torch.randn(n_items, 3), max(1, n_items // 2)
    got = top_scored(p, q, n, size)
    for row, s in zip(got.long(), p @ q.T): assert torch.equal(s[row].sort().values, s.sort().values[-n:])


# MetaEmbed

def machine(weights, bias, fields):
    "A factorisation machine, every pair of fields by itself."
    n = len(fields)
    return bias + sum((weights[a] + weights[b]) * np.dot(fields[a], fields[b]) for a in range(n) for b in range(a))


def metaembed_published(weights, bias, users, c, W, reach, alpha, eta, a, b):
    "Cold loss, loss after one step of each item on its own mini-batch, and α of one and 1 - α of the other."
    la, lb = [], []
    for n, fields in enumerate(c):
        phi = reach * np.tanh(W @ np.concatenate(fields))
        def loss(phi, batch):
            out = []
            for u, y in zip(batch[0][n], batch[1][n]):
                yhat = 1 / (1 + np.exp(-machine(weights, bias, [users[u], phi, *fields])))
                out.append(-y * np.log(yhat) - (1 - y) * np.log(1 - yhat))
            return np.mean(out)
        slope = np.zeros_like(phi)
        for u, y in zip(a[0][n], a[1][n]):
            yhat = 1 / (1 + np.exp(-machine(weights, bias, [users[u], phi, *fields])))
            slope += (yhat - y) * ((weights[0] + weights[1]) * users[u]
                                   + sum((weights[1] + w) * e for w, e in zip(weights[2:], fields))) / len(a[0][n])
        la.append(loss(phi, a)); lb.append(loss(phi - eta * slope, b))
    return dict(cold=np.mean(la), warmed=np.mean(lb)), alpha * np.mean(la) + (1 - alpha) * np.mean(lb)


def drawn(m, seed=0):
    torch.manual_seed(seed)
    met = m.warm.nonzero()[:, 0]
    items = met[torch.randperm(len(met))[:m.config.n_ids]]
    return items, m.tasks(items, m.config.shots)


def test_metaembed_is_the_published_loss():
    m, f, split = built("metaembed", alpha=.3, inner_lr=.7, shots=2, n_ids=5, reach=.4)
    items, tasks = drawn(m)
    (ua, ya), (ub, yb) = ((u.numpy(), y.numpy()) for u, y in tasks)
    met = set(map(tuple, split.train))
    for us, ys in ((ua, ya), (ub, yb)): assert [[(u, i) in met for u in row] for row, i in zip(us, items.tolist())] == ys.astype(bool).tolist()
    w = {k: v.detach().numpy() for k, v in m.named_parameters()}
    x = np.split(m.content.numpy(), [6], 1)
    c = [[x[n][i] @ w[f"base.embed.{n}"] for n in (0, 1)] for i in items.tolist()]
    close(step(m), metaembed_published(w["base.weights"], w["base.bias"], w["base.users"], c, w["generator.weight"], .4, .3, .7,
                                       (ua, ya), (ub, yb)))


def test_metaembed_second_order():
    "The warm-up step is differentiated through: the generator's gradient is that of the loss after the step, by finite differences."
    m, *_ = built("metaembed", alpha=0., inner_lr=5., shots=3, n_ids=6)
    def loss():
        torch.manual_seed(0)
        return m.losses(None, *map(torch.as_tensor, TRIPLES), None)[0]["warmed"]
    g, = torch.autograd.grad(loss(), m.generator.weight)
    for at in ((0, 0), (3, 5), (2, 7)):
        values = []
        for d in (1e-5, -2e-5):
            m.generator.weight.data[at] += d; values.append(loss().item())
        m.generator.weight.data[at] += 1e-5
        assert np.isclose(g[at].item(), (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-9)
    items, (a, b) = drawn(m)  # without the second order the gradient is another one
    fields = m.base.fields(m.content[items]); phi = m.generate(fields)
    slope, = torch.autograd.grad(m.judge(phi, fields, *a).sum(), phi, retain_graph=True)
    h, = torch.autograd.grad(m.judge(phi - 5. * slope, fields, *b).mean(), m.generator.weight)
    assert not torch.allclose(g, h, rtol=1e-2)


def test_the_base_is_trained_then_frozen():
    "Its weights stay as they were while the generator learns; it knows warm items, and two builds are the same to the bit."
    f, split = tiny()
    c = peer_config("metaembed", dim=8, lr=1e-2, batch_size=64, base_batch=32, epochs=6, eval_every=2)
    def build(): torch.manual_seed(0); return c.build(f, split, 0)
    a, b, run = build(), build(), fit(f, split, c, progress=False)
    for x, y, z in zip(a.base.parameters(), b.base.parameters(), run.model.base.parameters()):
        assert torch.equal(x, y) and torch.equal(x, z) and not z.requires_grad and z.grad is None
    assert not torch.equal(a.generator.weight, run.model.generator.weight)
    assert a.base_log == b.base_log and min(a.base_log) < .6                  # a coin has ln 2
    s = a.scorer()(np.arange(14), split.warm_items); met = split.matrix(dtype=bool).toarray()[:, split.warm_items]
    assert np.mean([(row[hit][:, None] > row[~hit]).mean() for row, hit in zip(s, met)]) > .9


def test_a_cold_item_takes_no_id_from_the_base():
    f, split = tiny()
    m = fit(f, split, peer_config("metaembed", dim=8, batch_size=32, epochs=2, eval_every=1), progress=False).model
    before = m.scorer()(np.arange(14), np.arange(24))
    m.base.ids.data[torch.as_tensor(split.cold_items)] += 7.
    assert np.array_equal(m.scorer()(np.arange(14), np.arange(24)), before)


def test_the_machine_is_all_pairs_of_fields():
    fm, rng = FactorisationMachine(3, 4, [5, 2, 6], 8).double(), np.random.default_rng(0)
    with torch.no_grad():
        for w in fm.parameters(): w.copy_(torch.as_tensor(rng.normal(size=w.shape)))
    fields = fm.fields(torch.as_tensor(rng.normal(size=(4, 13))))
    got = (fm.of_user(torch.arange(3)) @ fm.of_item(fm.ids, fields).T).detach().numpy()
    u, i, c, w = (t.detach().numpy() for t in (fm.users, fm.ids, fields, fm.weights))
    assert np.allclose(got, [[machine(w, fm.bias.item(), [u[a], i[b], *c[b]]) for b in range(4)] for a in range(3)], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_mini_batches_share_no_user_who_met_the_item(seed, shots):
    _, split = tiny()
    tasks, met = Tasks(split, seed), split.matrix(dtype=bool).toarray()
    torch.manual_seed(seed)
    items = torch.as_tensor(split.warm_items)
    a, b = tasks(items, shots)
    for n, i in enumerate(split.warm_items):
        x, y = set(a[0][n, :shots].tolist()), set(b[0][n, :shots].tolist())
        assert met[list(x | y), i].all() and (met[:, i].sum() == 1 or not x & y)
        for u, l in (a, b): assert np.array_equal(met[u[n].numpy(), i], l[n].bool().numpy())


# all three

@pytest.fixture(scope="module")
def large():
    ds = make_toy(n_users=400, n_items=1600)
    return Extractor("tiny").extract(ds, progress=False), cold_split(ds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_learns_on_toy_with_published_settings(name, seed, large):
    "Twice chance on cold items of the test half; 41 epochs, for three matrices or layers from deviation .01 start slowly."
    run = fit(*large, peer_config(name, batch_size=512, lr=3e-3, epochs=41, eval_every=10), seed=seed, progress=False)
    got, chance = (evaluate(s, large[1])["ndcg@10"].mean() for s in (run.model.scorer(), random_scorer(large[1])))
    assert got > 2 * chance, (got, chance)
    assert set(run.history[0]) >= {"val/ndcg@10", "val_own/ndcg@10", "total"}


@pytest.mark.parametrize("name", NAMES)
def test_cards_and_spaces(name):
    "A card says what is published, what is here and what is missing; every searched setting is named in the settings' docstring."
    card, doc = FIDELITY_ABSENT[name], " ".join(type(peer_config(name)).__doc__.split())
    assert set(card) == {"repository", "commit", "published", "here", "missing"} and "/" in card["repository"]
    assert all(isinstance(s, str) and s.endswith(".") for k in ("published", "here", "missing") for s in card[k])
    assert {"lr", "dim", "negatives"} <= set(SPACES[name]) and all(s in doc for s in SPACES[name])
