"""A server under load, on this machine: `python tests/load.py MODEL [seconds]` starts `mamex serve`, asks it, and prints what it took."""
import asyncio, json, os, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
import numpy as np

ROOT = Path(__file__).parent.parent


@contextmanager
def served(model, *options, cwd=None):
    "A server of its own process; yields (process, port)."
    env = os.environ | dict(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
    p = subprocess.Popen([sys.executable, "-m", "mamex.cli", "serve", str(model), "--port", "0", *map(str, options)], env=env, cwd=cwd,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    try:
        while not lines or not lines[-1].startswith("http"):
            if not (line := p.stdout.readline()): raise RuntimeError(p.stderr.read())
            lines.append(line)
        yield p, int(lines[-1].split(",")[0].rsplit(":", 1)[1])
    except ConnectionError as e: raise RuntimeError(f"{e}; the server's status: {p.poll()}; it said {ends(p)!r}") from None
    finally:
        if p.poll() is None: p.kill()
        p.wait(); p.stdout.close(); p.stderr.close()


def ends(p) -> str:
    "What a server says on stderr, which is ended for it."
    p.kill()
    return p.stderr.read()[-2000:]


def memory(p) -> int:
    "Bytes of a process that lie in memory."
    text = Path(f"/proc/{p.pid}/status").read_text()
    return int(next(l for l in text.splitlines() if l.startswith("VmRSS")).split()[1]) * 1024


class Client:
    "One connection that is kept; as little work as can be, so that it is the server that is measured."
    def __init__(self, port): self.port, self.reader, self.last = port, None, time.perf_counter()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes, dict]:
        if self.reader is None: self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        start = time.perf_counter()
        self.writer.write(b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
        try: head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError as e:
            now = time.perf_counter()
            raise ConnectionError(f"closed {now - start:.2f} s after the question, which came {start - self.last:.2f} s after "
                                  f"the last answer; {len(e.partial)} bytes came") from None
        headers = dict(l.lower().split(": ", 1) for l in head[1:] if l)
        answer = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close": self.close()
        self.last = time.perf_counter()
        return int(head[0].split()[1]), answer, headers

    def close(self):
        if self.reader is not None: self.writer.close()
        self.reader = None


async def one(port, bodies, end, out):
    c, n = Client(port), 0
    try:
        while time.perf_counter() < end:
            start = time.perf_counter()
            status, _, _ = await c.post("/recommend", bodies[n % len(bodies)])
            out.append((status, time.perf_counter() - start))
            n += 1
            if status == 429: await asyncio.sleep(.02)
    finally: c.close()


async def crowd(port, bodies, clients: int, seconds: float) -> list:  # (status, seconds)
    out, end = [], time.perf_counter() + seconds
    await asyncio.gather(*(one(port, bodies[i:] + bodies[:i], end, out) for i in range(clients)))
    return out


def load(port, bodies, clients: int, seconds: float) -> dict:
    "Milliseconds and counts of so many clients that ask one question after the other."
    out = asyncio.run(crowd(port, bodies, clients, seconds))
    t = np.array([s for status, s in out if status == 200]) * 1e3
    by = {s: sum(x == s for x, _ in out) for s in sorted({x for x, _ in out})}
    return dict(clients=clients, p50=round(float(np.percentile(t, 50)), 1), p99=round(float(np.percentile(t, 99)), 1),
                a_second=round(len(t) / seconds), refused=round(by.get(429, 0) / len(out), 3), statuses=by)


def questions(model, n=64) -> list[bytes]:
    "Known users and histories of three items, half and half."
    import pandas as pd
    users, items = (pd.read_parquet(Path(model)/f"{w}s.parquet")[w].tolist() for w in ("user", "item"))
    ask = lambda i: dict(users=[users[i % len(users)]]) if i % 2 else dict(histories={"walk-in": [items[(7*i + j) % len(items)] for j in range(3)]})
    return [json.dumps(ask(i) | dict(k=10, among=("new", "all")[i // 2 % 2])).encode() for i in range(n)]


if __name__ == "__main__":
    model, seconds, bodies = sys.argv[1], float((sys.argv[2:] or [10])[0]), questions(sys.argv[1])
    with served(model) as (p, port):
        load(port, bodies, 1, 1)
        for n in (1, 8, 32): print(load(port, bodies, n, seconds), flush=True)
        print("memory, MB:", end=" ")
        for _ in range(10): load(port, bodies, 8, seconds); print(round(memory(p) / 1e6), end=" ", flush=True)
        print()
        p.terminate(); print("status", p.wait(30))
    with served(model, "--waiting", 4) as (p, port): print("four may wait:", load(port, bodies, 32, seconds), flush=True)
