"Many machines: the same bytes as one, whatever dies in the middle; and what is done is not done again."
import json, os, shutil, subprocess, sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from conftest import ROOT
from mamex import cli
from mamex.base import UsageError
from mamex.cluster import blocks, runs, shards, tasks
from mamex.cluster.blocks import far_top, in_order
from mamex.cluster.store import Store
from mamex.cluster.tasks import Here, asked_for, handed_out
from mamex.datasets.toy import toy
from mamex.extractor import Extractor, extract
from mamex.protocol.folds import cold_folds
from mamex.recommender.ranking import Bans, top_items
from mamex.studies.evidence import Arm, Family, gather
from mamex.trainer import preset

ALONE = ["unshare", "-rnpf", "--kill-child", "--mount-proc", "sh", "-c"]


def why_not() -> str:
    "Why a cluster cannot be started here; '' if it can."
    if not find_spec("ray"): return "needs the extra ray"
    if not shutil.which("unshare") or not shutil.which("ip"): return "needs unshare and ip, of Linux"
    done = subprocess.run([*ALONE, "ip link set lo up"], capture_output=True, text=True)
    return f"needs namespaces of its own ({done.stderr.strip()[:80]})" if done.returncode else ""


# ---- a real head, a second node, a worker and a node that die
@pytest.fixture(scope="module")
def said(tmp_path_factory):
    "What tests/on_cluster.py found."
    if why := why_not(): pytest.skip(why)
    home = tmp_path_factory.mktemp("cluster")
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [*ALONE, f"ip link set lo up && exec {sys.executable} {ROOT}/tests/on_cluster.py {home}"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads((home / "said.json").read_text(encoding="utf-8"))


@pytest.mark.alone
def test_vectors_are_those_of_one_machine_though_a_worker_died(said):
    v = said["vectors"]
    assert said["workers"] == 2 and v["killed"] and v["equal"] and v["same"] and v["files"] >= 5 and not v["half"]


@pytest.mark.alone
def test_sums_and_lists_are_those_of_one_machine(said):
    assert said["sums"]["system"] < 1e-6 and said["sums"]["vectors"] < 1e-4 and said["sums"]["lists"]


@pytest.mark.alone
def test_runs_are_those_of_one_machine_though_a_node_died(said):
    r = said["runs"]
    assert r["equal"] and r["n"] == 6 and r["names"] and r["killed"] == -9


# ---- without Ray: what is done is not done again
class Killed(Here):
    "A pool whose driver is killed after so many pieces."
    def __init__(self, n): self.n = n
    def done(self, f, jobs, gpus=0):
        for k, job in enumerate(jobs):
            if k == self.n: raise KeyboardInterrupt
            yield k, f(*job)

class Counting(Here):
    sent = 0
    def done(self, f, jobs, gpus=0):
        for k, job in enumerate(jobs): self.sent += 1; yield k, f(*job)


@pytest.fixture
def common(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMEX_RAY_CACHE", str(tmp_path / "common"))
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "common"


def test_a_driver_that_was_killed_goes_on(common, tmp_path):
    "Vectors: what the first left in the common folder is not sent again, though its own cache is lost."
    ds, whole = toy(n_users=60, n_items=400), Counting()
    with pytest.raises(KeyboardInterrupt), handed_out(Killed(2), *shards.SHARDS): extract(ds, "tiny", cache=tmp_path / "lost", progress=False)
    left = {p.name for p in common.rglob("*.safetensors")}
    with handed_out(whole, *shards.SHARDS): f = extract(ds, "tiny", cache=tmp_path / "next", progress=False)
    every = {p.name for p in common.rglob("*.safetensors")}
    assert len(left) == 2 and whole.sent == len(every) - 2 > 0
    assert f.fingerprint == extract(ds, "tiny", cache=tmp_path / "plain", progress=False).fingerprint


def test_a_study_that_was_killed_goes_on(common, tmp_path):
    ds = toy(n_users=60, n_items=80)
    f, arms = extract(ds, "tiny", progress=False), {}
    for n, ridge in dict(a=1., b=3.).items(): arms[n] = Arm(f, preset("best", dim=16, damp=.3, memory=0., ridge=ridge))
    study = lambda pool, home: _study(pool, arms, ds, tmp_path / home)
    with pytest.raises(KeyboardInterrupt): study(Killed(4), "one")
    again = Counting()
    many = study(again, "two")
    assert again.sent == 2 and len(many.outcomes["a"]) == len(many.outcomes["b"]) == 3
    plain = study("", "three")
    assert all(x.users.equals(y.users) for n in arms for x, y in zip(many.outcomes[n], plain.outcomes[n]))


def _study(pool, arms, ds, store):
    with handed_out(pool, *runs.RUNS):
        return gather(arms, dict(pair=Family("a", ["b"])), lambda p: cold_folds(ds, 3), store, progress=False)


def test_a_budget_ends_after_a_whole_fold(common, tmp_path):
    "Time that is over after five of six runs: two folds count, and the comparison stays open."
    ds = toy(n_users=60, n_items=80)
    f = extract(ds, "tiny", progress=False)
    arms = {n: Arm(f, preset("best", dim=16, damp=.3, memory=0., ridge=r)) for n, r in dict(a=1., b=3.).items()}
    asked = runs.runs_of(arms, cold_folds(ds, 3), 0, tmp_path / "store", None)
    class Slow(Here):
        def done(self, g, jobs, gpus=0):
            for k, job in enumerate(jobs):
                if k == 4: clock[0] = 1e12
                yield k, g(*job)
    clock, bar = [0.], type("Bar", (), dict(update=lambda self, n: None))()
    import types
    old, runs.time = runs.time, types.SimpleNamespace(time=lambda: clock[0])
    try: assert runs.whole_folds(Slow(), asked, 3, 1e9, "cpu", bar) == 2
    finally: runs.time = old
    assert [a.here for a in asked] == [True] * 5 + [False]


def test_a_run_that_diverges_is_seen_by_the_study(common, tmp_path):
    from mamex.studies.evidence import gather
    ds = toy(n_users=60, n_items=80)
    f = extract(ds, "tiny", progress=False)
    bad = Arm(f, preset("released", lr=1e30, epochs=3, eval_every=1, batch_size=64))
    arms = dict(a=Arm(f, preset("best", dim=16, damp=.3, memory=0.)), bad=bad)
    with handed_out(Here(), *runs.RUNS):
        ev = gather(arms, dict(pair=Family("a", ["bad"])), lambda p: cold_folds(ds, 3), tmp_path / "store", progress=False)
    assert "bad" in ev.failed and len(ev.outcomes["a"]) == 3


# ---- places
@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_a_file_is_whole_or_not_there(kind, tmp_path, monkeypatch):
    store = Store(dict(path=tmp_path / "s", file=f"file://{tmp_path}/s", memory=f"memory://{tmp_path.name}")[kind])
    assert store.names("folds") == set()
    for data in (b"first", b"second"):
        store.write("folds/a.parquet", data)
        assert store.read("folds/a.parquet") == data and store.names("folds") == {"folds/a.parquet"}
    if kind == "path": return
    def broken(*a, **k): raise OSError("the line is dead")
    monkeypatch.setattr(store.fs, "mv", broken)
    with pytest.raises(UsageError, match="does not answer .the line is dead.: .* what is done is kept"): store.write("folds/b.parquet", b"third")
    assert "folds/b.parquet" not in store.names("folds")


def test_a_place_that_cannot_be_opened_says_so():
    with pytest.raises(UsageError, match="MAMEX_RAY_CACHE is 'nowhere://x'"): Store("nowhere://x")


def test_an_object_store_is_a_place_like_any_other(tmp_path):
    "Whole files, a driver that dies and goes on, a bucket that is not there, a store that does not answer."
    packages = ROOT / ".s3"
    if not (packages / "moto").is_dir(): pytest.skip("needs an object store: make s3")
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(packages), str(ROOT)]))
    done = subprocess.run([sys.executable, str(ROOT / "tests/on_s3.py"), str(tmp_path)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    said = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert said["no bucket"] == "MAMEX_RAY_CACHE is 's3://shelf/mamex', and its bucket is not there: make it, or name another." and said["made"] == 0
    assert said["empty"] == [] and said["written"] == ["second", ["folds/a.parquet"]]
    assert len(set(said["vectors"])) == 1 and said["half"] == []
    assert said["sent"] == [2, said["shards"] - 2, 0]
    assert said["dead"].startswith("MAMEX_RAY_CACHE is 's3://shelf/mamex', which cannot be opened (")
    assert all(s.startswith("MAMEX_RAY_CACHE is 's3://shelf/mamex', which does not answer (") for s in said["fell silent"]) and len(said["fell silent"]) == 3


# ---- lists and order
@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), k=st.integers(1, 12), block=st.integers(1, 9), blocks_=st.integers(1, 4), seed=st.integers(0, 99), ban=st.sampled_from(["", "met", "allowed"]))
def test_merged_lists_are_the_lists(n, k, block, blocks_, seed, ban):
    "Few different scores, so that many are tied, also across pieces."
    from scipy import sparse
    rng = np.random.default_rng(seed)
    u, e = rng.integers(-1, 2, (7, 2)).astype(np.float32), rng.integers(-1, 2, (n, 2)).astype(np.float32)
    banned = sparse.csr_array(rng.random((7, n)) < .3) if ban else None
    if ban == "allowed": banned = Bans(sparse.csr_array(rng.random((7, n)) < .5), banned)
    old, (blocks.BLOCKS, blocks.CROWD) = (blocks.BLOCKS, blocks.CROWD), (blocks_, 2)
    try: I, S = far_top(Here(), top_items, u, lambda a, b: e[a:b], n, k, banned, block, 3)
    finally: blocks.BLOCKS, blocks.CROWD = old
    i, s = top_items(u, lambda a, b: e[a:b], n, k, banned, block, 3)
    assert (I == i).all() and (S == s).all()


@given(st.permutations(range(8)))
def test_results_come_in_their_order(order): assert list(in_order((n, n) for n in order)) == list(range(8))


# ---- the switch
def test_the_switch_leaves_everything_as_it_was(monkeypatch):
    was = {(o, n): vars(o)[n] for o, n, _ in (*shards.SHARDS, *blocks.SOLVE, *blocks.RANK, *runs.RUNS)}
    with pytest.raises(RuntimeError), handed_out(Here(), *shards.SHARDS, *blocks.SOLVE, *blocks.RANK, *runs.RUNS):
        assert all(vars(o)[n] is not f for (o, n), f in was.items())
        raise RuntimeError
    assert all(vars(o)[n] is f for (o, n), f in was.items())
    monkeypatch.setenv("MAMEX_RAY", "auto")
    if find_spec("ray"): assert asked_for() == "auto" and asked_for("local") == "local" and asked_for("") == ""


def test_a_worker_of_other_code_refuses(common):
    ds = toy(n_users=60, n_items=80)
    f, split, c = extract(ds, "tiny", progress=False), cold_folds(ds, 3)[0], preset("best", dim=16)
    with pytest.raises(UsageError, match="other code"): runs.run_piece(str(common), ("folds/x", "runs/x"), f, split, c, 0, "cpu", False)
    with pytest.raises(UsageError, match="other vectors"):
        shards.encode_shard((("encoder", "tiny"),), "x", str(common), "features/x", "text", ["a"])
    assert not common.exists()


def test_reports_turn_the_switch_on_for_their_kernels(monkeypatch, common):
    from mamex.studies import regenerate
    seen = []
    monkeypatch.delenv("MAMEX_RAY", raising=False)
    monkeypatch.setattr(regenerate, "main", lambda words: seen.append((words, os.environ.get("MAMEX_RAY"), os.environ.get("JUPYTER_PATH", ""))) or 0)
    assert cli.main(["reports", "toy", "--only", "run", "--ray", "local"]) == 0 and cli.main(["reports", "toy"]) == 0
    (words, address, path), plain = seen
    assert words == ["toy", "--only", "run"] and address == "local" and plain[:2] == (["toy"], None)
    from jupyter_client.kernelspec import KernelSpecManager
    monkeypatch.setenv("JUPYTER_PATH", path)
    assert KernelSpecManager().get_kernel_spec("python3").argv[1:3] == ["-m", "mamex.cluster.runs"]
    assert "MAMEX_RAY" not in os.environ


def test_no_cluster_is_one_sentence(tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(tasks, "connect", lambda address, **own: (_ for _ in ()).throw(UsageError(f"the cluster {address!r} does not answer.")))
    monkeypatch.setenv("MAMEX_RAY_CACHE", str(tmp_path / "c")); monkeypatch.setenv("MAMEX_CACHE", str(tmp_path / "c"))
    assert cli.main(["fit", "toy", "--encoder", "tiny", "--to", str(tmp_path / "m"), "--ray", "10.0.0.9:6379"]) == 2
    assert capsys.readouterr().err == "the cluster '10.0.0.9:6379' does not answer.\n" and not (tmp_path / "m").exists()
