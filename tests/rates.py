"""How fast `Extractor` is, beside a plain loop over open_clip's encode functions and beside its parts, in turn on the same inputs.

    python tests/rates.py movielens offline 512

Not a test: it prints items per second, medians over rounds.
"""
import copy, io, shutil, statistics, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import torch
from PIL import Image
from mamex.datasets.core import k_core
from mamex.vectors.choose import load_encoder
from mamex.vectors.texts import item_texts
from mamex.vectors.towers import decode_picture
from mamex.extractor import Extractor
from mamex.datasets.fetch.sources import load_or_fetch


def batches(x, n=16): return [x[a:a+n] for a in range(0, len(x), n)]


@torch.no_grad()
def plain_images(tools, pictures):
    "One after the other: open, prepare, encode."
    model, preprocess, _ = tools
    for b in batches(pictures): model.encode_image(torch.stack([preprocess(Image.open(io.BytesIO(x)).convert("RGB")) for x in b]))


@torch.no_grad()
def plain_texts(tools, texts):
    "Tokenised to the encoder's full length, encoded."
    model, _, tokenizer = tools
    for b in batches(texts): model.encode_text(tokenizer(b))


def decode(tools, pictures, workers=2):
    "No encoder: what the workers alone can do."
    with ThreadPoolExecutor(workers) as pool: return list(pool.map(lambda b: tools[1](decode_picture(b)), pictures))


@torch.no_grad()
def encode(tools, ready):
    "No decoding: what the encoder alone can do."
    for b in batches(ready): tools[0].encode_image(torch.stack(b))


def ours(ex, ds):
    "Hashing, decoding, encoding and storing."
    new = copy.copy(ex)
    new.key = f"{time.time_ns():032x}"  # nothing is found in the cache
    try: new.extract(ds, progress=False)
    finally: shutil.rmtree(new.folder, ignore_errors=True)


def main(name="movielens", encoder="offline", n=512, rounds=3):
    ds = k_core(load_or_fetch(name))
    have = [i for i in ds.item_ids if i in ds.images][:int(n)]
    rows = ds.items["item"].isin(have).to_numpy()
    ds = replace(ds, items=ds.items[rows].reset_index(drop=True), item_ids=ds.item_ids[rows], images=ds.images.only(have), features={})
    ex = Extractor(encoder); ex.load()
    pictures, texts = [ds.images.read(i) for i in ds.item_ids], [t for t in item_texts(ds.items) if t]
    ready = decode(ex.tools, pictures)
    mute = replace(ds, items=ds.items[["item"]])
    P, T, tools = len(pictures), len(texts), ex.tools
    jobs = {"pictures, Extractor": (P, lambda: ours(ex, mute)), "pictures, plain loop": (P, lambda: plain_images(tools, pictures)),
            "pictures, encoder alone": (P, lambda: encode(tools, ready)), "pictures, decoding alone": (P, lambda: decode(tools, pictures)),
            "texts, Extractor": (T, lambda: ours(ex, replace(ds, images=None))), "texts, plain loop": (T, lambda: plain_texts(tools, texts))}
    rates = {k: [] for k in jobs}
    for _ in range(int(rounds)):
        for k, (count, f) in jobs.items():
            began = time.perf_counter(); f(); rates[k].append(count/(time.perf_counter() - began))
    print(f"{name}, {encoder}, {len(pictures)} pictures, {len(texts)} texts, {torch.get_num_threads()} threads; items per second")
    for k, v in rates.items(): print(f"{k:28}{statistics.median(v):8.1f}   ({min(v):.1f} to {max(v):.1f})")
    ratio = lambda a, b: statistics.median(x/y for x, y in zip(rates[a], rates[b]))
    for kind in ("pictures", "texts"): print(f"{kind}: Extractor / plain loop {ratio(kind + ', Extractor', kind + ', plain loop'):.2f}")
    print(f"pictures: Extractor / encoder alone {ratio('pictures, Extractor', 'pictures, encoder alone'):.2f}")


if __name__ == "__main__": main(*sys.argv[1:])
