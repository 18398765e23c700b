"Sampling laws, and a run that is killed for real."
import json, signal, subprocess, sys, textwrap
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.datasets.folders import load_dataset
from mamex.extractor import Extractor
from mamex.trainer import preset
from mamex.protocol.splits import Split, cold_split
from mamex.protocol.pairs import PairSampler
from mamex.trainer import fit


@given(st.integers(0, 10**6), st.sampled_from(["all", "warm"]))
@settings(max_examples=50, deadline=None)
def test_every_pair_once_and_no_met_negative(seed, negatives):
    rng = np.random.default_rng(seed)
    n_users, n_items = rng.integers(2, 8), rng.integers(6, 15)
    cold = rng.choice(n_items, 2, replace=False)
    train = np.argwhere((rng.random((n_users, n_items)) < .4) & ~np.isin(np.arange(n_items), cold))
    split = Split(n_users, n_items, train, train[:0], train[:0], cold[:1], cold[1:])
    met = set(map(tuple, train))
    candidates = set(range(n_items)) if negatives == "all" else set(split.warm_items)
    room = {u for u in range(n_users) if candidates - {i for v, i in met if v == u}}
    if not any(u in room for u, _ in met): return
    u, i, j = PairSampler(split, negatives).epoch(rng)
    assert sorted(zip(u, i)) == sorted(p for p in met if p[0] in room)
    assert not met & set(zip(u, j)) and set(j) <= candidates


SCRIPT = """
    import sys
    from mamex.datasets import load_dataset
    from mamex.extractor import Extractor
    from mamex.protocol.splits import cold_split
    from mamex.trainer import fit, preset
    ds = load_dataset("toy")
    config = preset("released", dim=32, batch_size=512, epochs=61, eval_every=5)
    def tell(row): print(row["epoch"], flush=True)
    fit(Extractor("tiny").extract(ds, progress=False), cold_split(ds), config, checkpoints=sys.argv[1], callback=tell)
"""


def test_kill_minus_nine(tmp_path):
    "A process killed by the system and started again ends in the same bytes as one that was left alone."
    def start(folder): return subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)], stdout=subprocess.PIPE, text=True)
    p = start(tmp_path / "a")
    for line in p.stdout:
        if int(line) >= 20: p.send_signal(signal.SIGKILL); break
    p.wait()
    p = start(tmp_path / "a"); seen = [int(l) for l in p.stdout]; assert p.wait() == 0
    assert seen[0] >= 20 and seen[-1] == 60  # it went on, and did not begin again
    p = start(tmp_path / "b"); assert len(list(p.stdout)) == 13 and p.wait() == 0
    (a,), (b,) = ((tmp_path / x).glob("*.safetensors") for x in "ab")
    assert a.name == b.name
    from safetensors import safe_open
    with safe_open(a, "pt") as f, safe_open(b, "pt") as g:
        assert set(f.keys()) == set(g.keys())
        for k in f.keys(): assert torch.equal(f.get_tensor(k), g.get_tensor(k)), k
        m, n = (json.loads(x.metadata()["mamex"]) for x in (f, g))
        assert m | {"seconds": 0} == n | {"seconds": 0}


@pytest.mark.parametrize("name", ["released", "paper"])
def test_missing_modalities_and_three_modalities_train(name):
    "Holes, items with nothing at all, and a third modality are no special cases."
    ds = load_dataset("toy"); f = Extractor("tiny").extract(ds, progress=False)
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(ds.n_items, 7)).astype("float32")
    mask = np.concatenate([f.mask, rng.random((ds.n_items, 1)) < .5], 1); mask[:6] = False
    f = replace(f, vectors=f.vectors | {"audio": sound}, mask=mask)
    run = fit(f, cold_split(ds), preset(name, dim=16, epochs=3, eval_every=1), progress=False)
    it = run.items()
    assert it.e.isfinite().all() and (it.alpha[~torch.as_tensor(mask)] == 0).all()
    assert torch.equal(it.e[0], run.model.prior) and run.model.prior.abs().sum() > 0  # the prior was learned
