"""A head and a second node, both on this machine and in a namespace of their own: vectors, sums, lists and runs, with a worker and a node
killed in the middle. Writes what came out into said.json (Ray prints what its workers say, whenever it comes). `tests/test_ray.py` starts it;
everything that it starts ends with it.
"""
import faulthandler, json, os, psutil, secrets, socket, subprocess, sys, tempfile, threading, time
from pathlib import Path

HOME = Path(sys.argv[1])
os.environ |= dict(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0",
                   MAMEX_CACHE=str(HOME / "here"), MAMEX_RAY_CACHE=f"file://{HOME / 'common'}")
# a node that falls away is missed after seconds; with ten nodes or a slow network the usual half minute is better
os.environ |= dict(RAY_health_check_initial_delay_ms="1000", RAY_health_check_period_ms="1000", RAY_health_check_failure_threshold="4")
faulthandler.dump_traceback_later(840, exit=True)
PORT, began, said = 6399, time.time(), {}
NODE = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1", "--include-log-monitor=false"]


NODES = {}  # how → process


def node(*how):
    "A node, which stays in the foreground of its process. Ray gives it half a minute to start, which a busy machine may not keep: see `wait_for`."
    command = [str(Path(sys.executable).with_name("ray")), "start", *how, *NODE]
    NODES[how] = subprocess.Popen(command, start_new_session=True, stdout=open(HOME / f"{len(list(HOME.glob('*.log')))}.log", "wb"), stderr=subprocess.STDOUT)


def wait_for(what, seconds=300):
    "Until it is so; a node that did not come up is started again."
    ends = time.time() + seconds
    while not what():
        for how, p in list(NODES.items()):
            if p.poll() is not None: node(*how)
        if time.time() > ends: sys.exit(f"not within {seconds} s: " + "\n".join(p.read_text()[-800:] for p in HOME.glob("*.log")))
        time.sleep(.2)


def tell(what): print(f"{time.time() - began:5.0f} s {what}", file=sys.stderr, flush=True)


def answers() -> bool:
    with socket.socket() as s: return s.connect_ex(("127.0.0.1", PORT)) == 0


node("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={tempfile.mkdtemp(prefix='r', dir='/tmp')}")
import numpy as np, torch  # while the head comes up
from mamex.base import UsageError
from mamex.cluster import blocks, runs, shards
from mamex.cluster.tasks import OnRay, handed_out
from mamex.datasets.toy import toy
from mamex.experts import SolvedMAMEX
from mamex.extractor import extract
from mamex.protocol.folds import cold_folds
from mamex.recommender.ranking import top_items
from mamex.studies.evidence import Arm, Family, gather
from mamex.trainer import fit, preset
torch.set_num_threads(1)
pool = OnRay(f"127.0.0.1:{PORT}")


def connected() -> bool:
    "Whether the head is there with all that belongs to it."
    try: return answers() and bool(pool.ray)
    except UsageError: return False


wait_for(connected)
ray, beside = pool.ray, (f"--address=127.0.0.1:{PORT}",)
node(*beside)
mine = lambda: ray.get_runtime_context().get_node_id()
wait_for(lambda: sum(n["Alive"] for n in ray.nodes()) == 2)
said["start"], said["workers"] = time.time() - began, pool.workers

tell("(a) vectors")
# (a) vectors: the worker of the first shard dies in it
def encode_and_die(*args, plain=shards.encode_shard, note=HOME / "worker died"):
    import os
    if not note.exists(): note.touch(); os._exit(137)
    return plain(*args)

ds = toy(n_users=120, n_items=400)
one = extract(ds, "tiny", cache=HOME / "one", progress=False)
shards.encode_shard = encode_and_die
with handed_out(pool, *shards.SHARDS): many = extract(ds, "tiny", cache=HOME / "many", progress=False)
bytes_of = lambda root: {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("features/*/*.safetensors")) if not p.name.startswith("tokens")}
said["vectors"] = dict(equal=bytes_of(HOME / "one") == bytes_of(HOME / "many") == bytes_of(HOME / "common"), files=len(bytes_of(HOME / "common")),
                       same=one.fingerprint == many.fingerprint, killed=(HOME / "worker died").exists(), half=[p.name for p in (HOME / "common").rglob(".*")])

tell("(c) sums")
# (c) sums and lists
split = cold_folds(ds, 3)[0]
small = preset("best", n_experts=40, dim=16, damp=.3, memory=0.)
SolvedMAMEX.block, blocks.BLOCKS = 32, 2
plain = fit(one, split, small, progress=False)
with handed_out(pool, *blocks.SOLVE): far = fit(one, split, small, progress=False)
asked = plain.catalogue, split.warm_items, split.warm_items[:40], np.ones(len(split.warm_items))
A, other = plain.model.system(*asked)[0], blocks.far_system(pool, None, plain.model, *asked)[0]
apart = lambda a, b: float((a - b).abs().max() / a.abs().max())
rng = np.random.default_rng(0)
u, e = rng.normal(size=(40, 16)).astype(np.float32), rng.normal(size=(3000, 16)).astype(np.float32)
question = u, lambda a, b: e[a:b], 3000, 20, None, 256
said["sums"] = dict(system=apart(A, other), vectors=apart(plain.items().e, far.items().e),
                    lists=all((x == y).all() for x, y in zip(top_items(*question), blocks.far_top(pool, top_items, *question))))

tell("(b) runs")
# (b) runs: the second machine falls away in the middle of one
def run_and_wait(*args, plain=runs.run_piece, head=mine(), note=HOME / "on the second"):
    import ray, time
    if ray.get_runtime_context().get_node_id() != head and not note.exists(): note.touch(); time.sleep(600)
    while not note.exists(): time.sleep(.1)  # the head is quick: it would do all pieces before the second has a worker
    return plain(*args)

def kill_second():
    while not (HOME / "on the second").exists(): time.sleep(.1)
    tree = [*psutil.Process(NODES[beside].pid).children(recursive=True), NODES[beside]]  # all that the machine ran, before any of it can tell
    for p in tree: p.kill()

runs.run_piece = run_and_wait
threading.Thread(target=kill_second, daemon=True).start()
arms = dict(best=Arm(one, preset("best", dim=16, damp=.3, memory=0.)), released=Arm(one, preset("released", epochs=4, eval_every=2, batch_size=256)))
study = lambda store: gather(arms, dict(pair=Family("best", ["released"])), lambda p: cold_folds(ds, 3), store / "folds", keep=store / "runs", progress=False)
alone = study(HOME / "study")
tell("alone")
with handed_out(pool, *runs.RUNS): together = study(HOME / "here")
tell("together")
lasting = lambda o: {k: v for k, v in o.facts.items() if k != "seconds"}
pairs = [(a, b) for arm in arms for a, b in zip(alone.outcomes[arm], together.outcomes[arm], strict=True)]
names = lambda root, kind: sorted(p.name for p in (root / kind).glob("*.*") if p.suffix != ".state")
said["runs"] = dict(equal=all(a.users.to_numpy().tobytes() == b.users.to_numpy().tobytes() and lasting(a) == lasting(b) for a, b in pairs), n=len(pairs),
                    names=all(names(HOME / "study", k) == names(HOME / "here", k) == names(HOME / "common", k) for k in ("folds", "runs")),
                    killed=NODES.pop(beside).wait(30))
wait_for(lambda: sum(n["Alive"] for n in ray.nodes()) == 1)  # the head misses the other after some seconds
said["seconds"] = time.time() - began
(HOME / "said.json").write_text(json.dumps(said), encoding="utf-8")
