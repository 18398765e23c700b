"A host that fails on demand, and small worlds in the published formats."
import gzip, hashlib, io, json, threading, time, zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np
from PIL import Image, PngImagePlugin

AMAZON = "/snap.stanford.edu/data/amazon/productGraph/categoryFiles"


class StandIn:
    """Serves `files` (path → bytes) with ranges and tags. `faults[path]` is a list of what goes wrong, one a call:
    ("cut", byte), ("status", code, {header: value}), ("hang", seconds), ("slow", seconds a kilobyte)."""
    def __init__(self, files): self.files, self.faults, self.asked, self.ranges = files, {}, [], True

    @property
    def url(self): return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, h):
        path, span = h.path.split("?")[0], h.headers.get("Range") if self.ranges else None
        self.asked.append((h.path, span, dict(h.headers)))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ("none",)
        if fault[0] == "hang": time.sleep(fault[1]); return
        if fault[0] == "status": return self.head(h, fault[1], dict(fault[2], **{"Content-Length": 0}))
        if path not in self.files: return self.head(h, 404, {"Content-Length": 0})
        body, tag = self.files[path], f'"{hashlib.md5(self.files[path]).hexdigest()}"'
        start = int(span[6:].rstrip("-")) if span and h.headers.get("If-Range", tag) == tag else 0
        if start >= len(body) > 0: return self.head(h, 416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": 0})
        more = {"Content-Range": f"bytes {start}-{len(body)-1}/{len(body)}"} if start else {}
        self.head(h, 206 if start else 200, {"ETag": tag, "Content-Length": len(body) - start} | more)
        body = body[start:max(start, fault[1])] if fault[0] == "cut" else body[start:]
        for a in range(0, len(body), 1024):
            h.wfile.write(body[a:a+1024])
            if fault[0] == "slow": h.wfile.flush(); time.sleep(fault[1])

    def head(self, h, code, headers):
        h.send_response(code)
        for k, v in headers.items(): h.send_header(k, str(v))
        h.end_headers()


@contextmanager
def serve(files):
    host = StandIn(files)
    class H(BaseHTTPRequestHandler):
        def do_GET(self):
            try: host.answer(self)
            except (BrokenPipeError, ConnectionResetError): pass
            self.close_connection = True
        def log_message(self, *a): pass
    host.server = ThreadingHTTPServer(("127.0.0.1", 0), H)
    host.server.daemon_threads = True
    threading.Thread(target=host.server.serve_forever, daemon=True).start()
    try: yield host
    finally: host.server.shutdown(); host.server.server_close()


def picture(fmt="JPEG", colour=(200, 30, 30), size=(48, 40), noise=0):
    "A picture's bytes; with noise it is some kilobytes long."
    a = np.full((size[1], size[0], 3), colour, np.uint8)
    if noise: a = (a ^ np.random.default_rng(noise).integers(0, 256, a.shape, dtype=np.uint8))
    Image.fromarray(a).save(b := io.BytesIO(), fmt)
    return b.getvalue()


def bomb(side=30_000):
    "A PNG of a hundred kilobytes that unfolds to nine hundred million pixels."
    import struct, zlib
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = zlib.compress(bytes(side * (side // 8 + 1)), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def amazon_world(category="Sports_and_Outdoors", n_users=40, n_items=60, seed=0):
    """Files of one category as they are published: reviews of a 5-core, metadata as Python literals with entities, repeated, broken
    and missing records and records of other items, pictures as JPEG, PNG and WebP, of which some are gone or none.
    Returns path → bytes and what should come of the pictures."""
    rng, files, rows = np.random.default_rng(seed), {}, []
    items = [f"B{i:09d}" for i in range(n_items)]
    met = rng.random((n_users, n_items)) < .2
    for i in range(n_items):
        for u in rng.permutation(n_users)[:6]: met[u, i] = True
    for u in range(n_users):
        for i in rng.permutation(n_items)[:6]: met[u, i] = True
    for u, i in np.argwhere(met):
        rows.append(json.dumps(dict(reviewerID=f"A{u:05d}", asin=items[i], reviewerName="N. & N.", helpful=[0, 0], reviewText="good\n\"very\"",
                                    overall=float(rng.integers(1, 6)), summary="ok", unixReviewTime=int(1.3e9 + 86400*rng.integers(0, 900)), reviewTime="05 1, 2011")))
    rows += [rows[0], "", "{broken"]  # repeated, empty, none
    files[f"{AMAZON}/reviews_{category}_5.json.gz"] = gzip.compress("\n".join(rows).encode(), mtime=0)
    kinds = ["ok"] * n_items
    for i, k in enumerate(("gone", "410", "html", "damaged", "bomb", "none", "absent", "broken")): kinds[7*i % n_items] = k
    meta = []
    for i, (item, k) in enumerate(zip(items, kinds)):
        fmt = ("JPEG", "PNG", "WEBP")[i % 3]
        url = f"http://ecx.images-amazon.com/images/I/{item}.jpg"
        r = dict(asin=item, title=f"Tent &amp; pole No. {i} of Amazon's \"best\"", description=f"It&#39;s for {('rain', 'snow')[i % 2]}. {rng.bytes(150).hex()}", price=9.5,
                 imUrl=url, brand=("Peak", "")[i % 2], categories=[["Sports & Outdoors", ("Camping", "Golf")[i % 2]]], related=dict(also_bought=items[:3]))
        if k == "none": del r["imUrl"]
        if k == "absent": continue
        meta.append(repr(r)[:-9] if k == "broken" else repr(r))
        path, body = f"/ecx.images-amazon.com/images/I/{item}.jpg", picture(fmt, (4*i % 256, 90, 200 - 3*i), noise=i + 1)
        files |= {"ok": {path: body}, "html": {path: b"<!DOCTYPE html><p>Not here"}, "damaged": {path: picture(noise=1)[:1500]}, "bomb": {path: bomb()}}.get(k, {})
    meta += [meta[-1], repr(dict(asin="Z000000000", title="nobody met this", imUrl="http://ecx.images-amazon.com/images/I/other.jpg")), ""]
    files[f"{AMAZON}/meta_{category}.json.gz"] = gzip.compress("\n".join(meta).encode(), mtime=0)
    want = {"ok": n_items - 8, "gone": 2, "not a picture": 1, "damaged": 1, "too large": 1, "no address": 3}
    return files, want


def films_zip():
    "ml-latest-small in small."
    t = {"ratings.csv": "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},4.0,{964982703 + u}\n" for u in range(1, 9) for m in range(1, 8)),
         "movies.csv": "movieId,title,genres\n" + "".join(f'{m},"Film, The {m} ({1990 + m})",{("Drama|Comedy", "(no genres listed)")[m % 2]}\n' for m in range(1, 9)),
         "tags.csv": "userId,movieId,tag,timestamp\n1,1,fun,1\n2,1,fun,2\n2,1,old,3\n",
         "links.csv": "movieId,imdbId,tmdbId\n" + "".join(f"{m},000{m},{'' if m == 3 else 100 + m}\n" for m in range(1, 9))}
    with zipfile.ZipFile(b := io.BytesIO(), "w") as z:
        for n, text in t.items(): z.writestr(zipfile.ZipInfo(f"ml-latest-small/{n}"), text)
    return b.getvalue()
