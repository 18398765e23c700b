"""An object store on this machine (moto), and what the cluster does with it. Writes what came out into said.json; `tests/test_ray.py` starts it with
the packages of `make s3` on PYTHONPATH: they ask for older ones than the rest of this environment.
"""
import json, os, socket, subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen

HOME, said = Path(sys.argv[1]), {}
with socket.socket() as s: s.bind(("127.0.0.1", 0)); PORT = s.getsockname()[1]
os.environ |= dict(AWS_ACCESS_KEY_ID="anybody", AWS_SECRET_ACCESS_KEY="anything", AWS_DEFAULT_REGION="us-east-1", AWS_MAX_ATTEMPTS="1",
                   AWS_ENDPOINT_URL=f"http://127.0.0.1:{PORT}", MAMEX_RAY_CACHE="s3://shelf/mamex", MAMEX_CACHE=str(HOME / "cache"))
server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
ends = time.time() + 120


def up() -> bool:
    try: return urlopen(f"http://127.0.0.1:{PORT}/moto-api/", timeout=5).status == 200
    except OSError: return False


def refused(call, *args) -> str:
    try: call(*args)
    except UsageError as e: return str(e)


try:
    while not up():
        if time.time() > ends or server.poll() is not None: sys.exit("the object store did not start")
        time.sleep(.2)
    import boto3
    from mamex.base import UsageError
    from mamex.cluster import shards
    from mamex.cluster.store import Store
    from mamex.cluster.tasks import Here, handed_out
    from mamex.datasets.toy import toy
    from mamex.extractor import extract
    client = boto3.client("s3")
    said["no bucket"], said["made"] = refused(Store), len(client.list_buckets()["Buckets"])
    client.create_bucket(Bucket="shelf")

    store = Store()
    said["empty"] = sorted(store.names("folds"))
    for data in (b"first", b"second"): store.write("folds/a.parquet", data)
    said["written"] = [store.read("folds/a.parquet").decode(), sorted(store.names("folds"))]

    class Dies(Here):
        "A pool whose driver is killed after so many pieces; counts what it sends."
        def __init__(self, after=None): self.after, self.sent = after, 0
        def done(self, f, jobs, gpus=0):
            for k, job in enumerate(jobs):
                if k == self.after: raise KeyboardInterrupt
                self.sent += 1
                yield k, f(*job)

    ds, first, second, third = toy(n_users=60, n_items=400), Dies(2), Dies(), Dies()
    def vectors(pool, home):
        with handed_out(pool, *shards.SHARDS): return extract(ds, "tiny", cache=HOME / home, progress=False).fingerprint
    try: vectors(first, "killed")
    except KeyboardInterrupt: pass
    said["vectors"] = [vectors(second, "next"), vectors(third, "again"), extract(ds, "tiny", cache=HOME / "alone", progress=False).fingerprint]
    said["sent"] = [first.sent, second.sent, third.sent]
    names = [o["Key"] for o in client.list_objects_v2(Bucket="shelf")["Contents"]]
    said["shards"], said["half"] = sum(n.endswith(".safetensors") for n in names), [n for n in names if n.endswith(".tmp")]
    server.kill(); server.wait()
    said["dead"] = refused(Store)
    said["fell silent"] = [refused(*c) for c in ((store.names, "folds"), (store.read, "folds/a.parquet"), (store.write, "folds/b.parquet", b"third"))]
finally: server.kill()
(HOME / "said.json").write_text(json.dumps(said), encoding="utf-8")
