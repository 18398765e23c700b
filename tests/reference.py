"""The released computation written the plain way, as an oracle for mamex.model and as its yardstick in speed.

One `Linear` an expert, every expert on every item, negatives drawn one by one, losses by their library names.

    python tests/reference.py movielens offline      # seconds per epoch of both, in turn, and their ratio
"""
import sys, time
import numpy as np, torch
from torch import nn
from torch.nn import functional as F


class Expertise(nn.Module):
    def __init__(self, d_in, d, K, k):
        super().__init__()
        self.k, self.router, self.experts = k, nn.Linear(d_in, K), nn.ModuleList(nn.Linear(d_in, d) for _ in range(K))

    def forward(self, h):
        logits = self.router(h)
        best = logits.topk(self.k, dim=-1)
        outputs = torch.stack([expert(h) for expert in self.experts], dim=1)
        chosen = outputs.gather(1, best.indices[..., None].expand(-1, -1, outputs.shape[-1]))
        mean = logits.softmax(-1).mean(0)
        return (best.values.softmax(-1)[..., None] * chosen).sum(1), F.kl_div(mean.log(), torch.full_like(mean, 1 / len(mean)), reduction="sum")


class Reference(nn.Module):
    "The released model: normalised vectors, dense gate, both balance terms as KL(u||p), mean-squared alignment."
    def __init__(self, vectors, n_users, d=128, K=4, k=2, dropout=.1):
        super().__init__()
        self.h = [F.normalize(torch.as_tensor(v)) for v in vectors]
        self.user = nn.Embedding(n_users, d)
        self.moe = nn.ModuleList(Expertise(v.shape[1], d, K, k) for v in self.h)
        self.gate = nn.Sequential(nn.Linear(len(self.h) * d, d), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d, len(self.h)))

    def forward(self):
        z, balance = zip(*(moe(h) for moe, h in zip(self.moe, self.h)))
        alpha = self.gate(torch.cat(z, 1)).softmax(1)
        return sum(alpha[:, [m]] * v for m, v in enumerate(z)), z, alpha, sum(balance)

    def losses(self, u, i, j):
        e, z, alpha, balance = self()
        u, i, j = self.user(u), e[i], e[j]
        mean = alpha.mean(0)
        return dict(bpr=F.softplus((u * j).sum(1) - (u * i).sum(1)).mean(), align=sum(F.mse_loss(e, v) for v in z), adapter=balance,
                    fusion=F.kl_div(mean.log(), torch.full_like(mean, 1 / len(mean)), reduction="sum"),
                    reg=(u.norm(dim=1)**2 + i.norm(dim=1)**2 + j.norm(dim=1)**2).mean())

    def copy_weights(self, model):
        "Take the weights of a `mamex.model.MAMEX`."
        with torch.no_grad():
            self.user.weight.copy_(model.users)
            self.gate.load_state_dict(model.gate.net.state_dict())
            for moe, m in zip(self.moe, model.modalities):
                a = model.adapters[m]
                moe.router.load_state_dict(a.router.state_dict())
                for n, expert in enumerate(moe.experts): expert.weight.copy_(a.weight[n]); expert.bias.copy_(a.bias[n])
        return self


def draw_one_by_one(split, rng):
    "One negative a pair, each drawn until the user has not met it."
    met = {}
    for u, i in split.train.tolist(): met.setdefault(u, []).append(i)
    triples = []
    for u, items in met.items():
        for i in items:
            while (j := rng.randint(0, split.n_items)) in items: pass
            triples.append((u, i, j))
    return np.array(triples)[rng.permutation(len(triples))].T


def epoch(model, opt, split, rng, batch=2048, lam=(1, 1, 1, 1e-6)):
    model.train()
    triples = torch.as_tensor(draw_one_by_one(split, rng))
    for a in range(0, triples.shape[1], batch):
        parts = model.losses(*triples[:, a:a + batch])
        loss = parts["bpr"] + sum(l * parts[k] for l, k in zip(lam, ("align", "adapter", "fusion", "reg")))
        opt.zero_grad(); loss.backward(); opt.step()


def race(features, split, epochs=5):
    "Seconds of each epoch, the two in turn so that a noisy machine is noisy for both: (reference, ours)."
    from mamex.trainer import Trainer
    ours = Trainer(features, split)
    plain = Reference([features.vectors[m] for m in features.modalities], split.n_users)
    opt, rng, times = torch.optim.Adam(plain.parameters(), lr=1e-3), np.random.RandomState(0), ([], [])
    for _ in range(epochs + 1):
        for t, run in zip(times, (lambda: epoch(plain, opt, split, rng), ours.epoch)):
            start = time.perf_counter(); run(); t.append(time.perf_counter() - start)
    return np.array(times)[:, 1:]  # the first of each warms up


if __name__ == "__main__":
    from mamex.datasets import load_dataset, k_core
    from mamex.reports import extract
    from mamex.splits import make_split
    name, encoder = (sys.argv[1:] + ["toy", "auto"])[:2]
    ds = load_dataset(name)
    if ds.ready_split is None: ds = k_core(ds, 5)
    plain, ours = race(extract(ds, encoder), split := make_split(ds))
    print(f"{name}: {len(split.train):,} pairs, {ds.n_items:,} items, {torch.get_num_threads()} threads; seconds an epoch, median of {len(ours)}: "
          f"plain {np.median(plain):.2f}, ours {np.median(ours):.2f}, ratio {np.median(plain / ours):.2f} "
          f"({(plain / ours).min():.2f} to {(plain / ours).max():.2f})")
