"Chapter 00d: columns by their values, quotes, encodings, pictures, rows that are no likes: right, or asked about, or said; never silent."
import gzip, io, json, subprocess, sys, zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from mamex.base import UsageError
from mamex.datasets.tables.columns import guess_columns
from mamex.datasets.tables.decoding import decode_csv
from mamex.datasets.tables.importer import from_tables
from mamex.datasets.tables.products import _as_numbers, match_pictures
from mamex.datasets.tables.rows import read_table
from mamex.datasets.checks.folder import check_folder
from mamex.datasets.checks.problems import say_problems
from mamex.datasets.folders import load_dataset

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
P, C = "item,title\n1,Lamp\n2,Pot\n3,Cup\n", "user,item\nann,1\nbob,2\nann,3\n"


def png():
    Image.new("RGB", (8, 8), "red").save(b := io.BytesIO(), "PNG")
    return b.getvalue()


def put(d, name, x):
    if isinstance(x, pd.DataFrame): return x
    (d/name).parent.mkdir(parents=True, exist_ok=True)
    (d/name).write_bytes(x if isinstance(x, bytes) else x.encode())
    return d/name


class Shop:
    "What an import made and said, or with what it refused."
    def __init__(self, d, p=P, c=C, photos=(), names=("p.csv", "c.csv"), **how):
        for n in photos: put(d/"photos", n, png())
        try: m = from_tables(put(d, names[0], p), put(d, names[1], c), d/"photos" if photos else None, d/"o", **how)
        except UsageError as e:
            self.ds, self.problems, self.said = None, getattr(e, "problems", []), "\n".join([*getattr(e, "notes", []), str(e), *map(str, getattr(e, "problems", []))])
            assert not (d/"o").exists() and str(e).rstrip().endswith((".", ")"))
        else:
            self.ds, self.problems, self.said = load_dataset(m.folder), m.problems, "\n".join([*m.notes, *map(str, m.problems)])
            assert not [x for x in check_folder(m.folder) if x.level == "error"]
    @property
    def pairs(self): return sorted((self.ds.user_ids[u], self.ds.item_ids[i]) for u, i in self.ds.interactions[["user", "item"]].to_numpy())
    def kinds(self, level="warning"): return [p.kind for p in self.problems if p.level == level]


@pytest.fixture
def shop(tmp_path): return lambda *a, **k: Shop(tmp_path, *a, **k)


# ---- 1: columns by their values
@pytest.mark.parametrize("p,c,key,pairs", [
    ("asin,parent_asin,title\nV1,P1,a\nV2,P2,b\n", "user,asin,parent_asin\na,X,P1\nb,Y,P2\n", "parent_asin", [("a", "P1"), ("b", "P2")]),
    ("parent_asin,title\nP1,a\nP2,b\n", "user,asin,parent_asin\na,P1,P2\nb,Y,P1\n", "parent_asin", [("a", "P2"), ("b", "P1")]),
    ("id,sku,title\n1,A1,x\n2,A2,y\n3,A3,z\n", "id,user,sku\n1,u,A2\n2,v,A1\n3,u,A3\n", "sku", [("u", "A2"), ("u", "A3"), ("v", "A1")]),
    ("sku,id,title\n10,1,x\n11,2,y\n12,3,z\n", "user,product_id\nu,1\nv,2\nv,3\n", "id", [("u", "1"), ("v", "2"), ("v", "3")]),
    ("sku,ean,title\nA1,4001,x\nA2,4002,y\n", "user,ean\nu,4001\nv,4002\n", "ean", [("u", "4001"), ("v", "4002")]),
    ("item_id,gtin,title\n5,0401,x\n6,0402,y\n", "user,gtin,item_id\nu,0401,99\nv,0402,98\n", "gtin", [("u", "0401"), ("v", "0402")]),
    ("movie_id,title\n1,x\n2,y\n", "user_id,movie_id,unix_timestamp\n1,1,874965758\n2,2,875000000\n", "movie_id", [("1", "1"), ("2", "2")]),
    ("Artikelnummer;Bezeichnung\nA1;x\nA2;y\n", "Kunde;Artikel-Nr.;Datum\nu;A1;31.01.2024\nv;A2;01.02.2024\n", "Artikelnummer", [("u", "A1"), ("v", "A2")])])
def test_the_pair_of_columns_that_meets_is_taken_and_said(shop, p, c, key, pairs):
    s = shop(p, c)
    assert s.pairs == pairs and f"item is the column {key!r}" in s.said and "100 % of the clicks meet a product" in s.said


@pytest.mark.parametrize("p,c,words", [
    ("id,sku,title\n1,2,x\n2,3,y\n3,1,z\n", "user,item,w\nu,1,\nv,2,\nw,3,\nw,2,\n", ["they join other rows", "--columns products.item=sku clicks.item=item"]),
    ("foo,bar\nx1,Lamp\nx2,Pot\n", "user,was\nu,x1\nv,x2\n", ["'was' in 'foo'", "--columns products.item=foo clicks.item=was"]),
    ("sku,bar\nx1,Lamp\nx2,Pot\n", "user,was\nu,x1\nv,x2\n", ["100 % of 'was' are among the products' 'sku'", "--columns clicks.item=was"]),
    ("was,bar\nx1,Lamp\nx2,Pot\n", "user,sku\nu,x1\nv,x2\n", ["--columns products.item=was"]),
    ("sku,partno,title\nA,77,x\nB,78,y\nC,79,z\n", "user,sku,p\nu,1,77\nv,2,78\nu,3,79\n", ["'p' in 'partno'"]),
    ("a,b\n1,x\n", "c,d\n2,y\n", ["products.item=NAME"])])
def test_what_cannot_be_told_is_asked(shop, p, c, words):
    s = shop(p, c)
    assert s.ds is None and all(w in s.said for w in words), s.said


def test_told_columns_are_not_doubted(shop):
    s = shop("sku,partno,title\nA,77,x\nB,78,y\nC,79,z\n", "user,sku,p\nu,A,77\nv,2,78\nu,3,79\n", columns={"products.item": "sku", "clicks.item": "sku"})
    assert s.pairs == [("u", "A")] and "item is the column 'sku', as told" in s.said
    assert shop(C, C, columns={"products.item": "item", "clicks.item": "item", "title": "user", "timestamp": ""}, duplicates="first", replace=True).ds


def test_users_before_sessions(shop):
    assert "user is the column 'user_id' (not 'session_id')" in shop(c="session_id,user_id,item\ns1,a,1\ns1,a,2\ns2,b,3\n").said
    s = shop(c="session_id,item\ns1,1\ns1,2\ns2,3\n", replace=True)
    assert s.ds.n_users == 2 and "'session_id' column plays the users" in s.said


@pytest.mark.parametrize("c,column", [("user,item,time,date\na,1,10:15,2024-01-31\nb,2,11:15,2024-02-01\n", "date"), ("user,item,day,when\na,1,Monday,31.01.2024\nb,2,Friday,01.02.2024\n", "when"),
                                      ("user,item,timestamp,order_date\na,1,1,2024-01-31\nb,2,2,2024-02-01\n", "order_date")])
def test_the_date_that_can_be_read_is_taken(shop, c, column):
    s = shop(c=c)
    assert f"timestamp is the column {column!r}" in s.said and s.ds.interactions["timestamp"].tolist() == [1706659200, 1706745600]


HEADERS = dict(
    de=("Artikelnummer Bezeichnung Beschreibung Bild Erscheinungsdatum", "Kundennummer Artikelnr Bestelldatum Bewertung"),
    fr=("Référence Titre Description Image Date_de_sortie", "Client Référence Date Note"), fr2=("reference nom descriptif image annee", "id_client reference horodatage note"),
    es=("Código Título Descripción Imagen Lanzamiento", "Cliente Código Fecha Valoración"), es2=("codigo nombre descripcion imagen anio", "usuario codigo fecha puntuacion"),
    pt=("Código Título Descrição Imagem Lançamento", "Cliente Código Data Avaliação"), nl=("Artikelnummer Naam Omschrijving Afbeelding Jaar", "Klant Artikelnummer Besteldatum Beoordeling"),
    it=("Codice Titolo Descrizione Immagine Anno", "Cliente Codice Data Valutazione"), hm=("article_id prod_name detail_desc image year", "customer_id article_id t_dat rating"),
    amazon=("asin title description image year", "reviewerID asin unixReviewTime overall"), amazon23=("parent_asin title description image year", "user_id parent_asin timestamp rating"),
    retailrocket=("itemid name text image year", "visitorid itemid timestamp rating"), recbole=("item_id:token title:token_seq description:token_seq image:token year:float", "user_id:token item_id:token timestamp:float rating:float"))


@pytest.mark.parametrize("language", HEADERS)
def test_headers_are_known(language):
    p, c = (h.split() for h in HEADERS[language])
    assert guess_columns(p, "products")[0] == dict(zip(("item", "title", "description", "picture", "released"), p))
    assert guess_columns(c, "clicks")[0] == dict(zip(("user", "item", "timestamp", "rating"), c))


def test_every_column_is_said(shop):
    s = shop("item,title,brand,price,avg_rating,empty\n1,a,x,€ 12,4.5,\n2,b,y,7 €,4,\n", "user,item,channel\na,1,web\nb,2,shop\n")
    for w in ("no column plays description", "kept as text: brand", "kept as numbers: price", "because users wrote it: avg_rating", "empty", "not read: channel (shop, web)",
              "no column plays timestamp (date), rating"): assert w in s.said, w
    assert s.ds.items["price"].tolist() == [12, 7]


@pytest.mark.parametrize("column,values,words", [
    ("rating", "5 2 0 -1", ["whatever its 'rating' (5 … -1)", "3 of 4 are below 3", "--min-rating 3"]), ("stars", "5 2 4 1", ["whatever", "2 of 4 are below 3", "--min-rating 3"]),
    ("rating", "10 2 4 8", ["below 6"]), ("score", "90 20 70 10", ["below 60"]), ("overall", "5 5 4 3", ["whatever"]), ("rating", "1 0 1 -1", ["below 1"]),
    ("quantity", "1 2 -1 0", ["'quantity' is -1", "in 2 of 4 rows", "--where \"quantity>0\""]), ("Menge", "1 2 -1 3", ["--where \"Menge>0\""]),
    ("event", "view view addtocart transaction", ["view 50 %", "--where \"event=transaction\""]), ("event_type", "view cart remove_from_cart purchase", ["hardly a like", "event_type=purchase"]),
    ("click", "0 1 1 0", ["'click' is 0, as in 2 of 4 rows", "--where \"click=1\""]), ("label", "0 1 1 0", ["--where \"label=1\""]), ("clicked", "true false true true", ["--where \"clicked=true\""]),
    ("is_buy", "0 0 0 1", ["--where \"is_buy=1\""])])
def test_rows_that_are_no_likes_are_said(shop, column, values, words):
    s = shop(c=f"user,item,{column}\n" + "".join(f"u{k % 2},{k % 3 + 1},{v}\n" for k, v in enumerate(values.split())))
    assert all(w in s.said for w in words), s.said
    if column in ("click", "label", "clicked", "is_buy", "quantity", "Menge"): assert "no like" in s.kinds()


@pytest.mark.parametrize("how,users", [(dict(where="event=transaction"), "c"), (dict(where=["event!=view"]), "bc"), (dict(where=["event=view|addtocart", "qty>0"]), "a"), (dict(where="qty>=1"), "ac"),
                                       (dict(where="qty<0"), "b"), (dict(min_rating=3), "ac"), (dict(min_rating=3, where="event=view"), "a"), (dict(where="date>=2024-01-01"), "bc"), (dict(where="Qty=1"), "a")])
def test_conditions_leave_rows_out_and_are_counted(shop, how, users):
    s = shop(c="user,item,event,qty,rating,date\na,1,view,1,5,2023-05-01\nb,2,addtocart,-1,1,2024-01-31\nc,3,transaction,2,4,2024-02-01\n", **how)
    assert "".join(s.ds.user_ids) == users and f"{3 - len(users)} left out by conditions" in s.said
    assert not [p for p in s.problems if p.kind == "no like"] or "qty" not in str(how)


@pytest.mark.parametrize("how,words", [(dict(where="colour=red"), "names no column"), (dict(where="item"), "names no column"), (dict(where="item=99"), "leaves no row"), (dict(where="user>x"), "neither number nor date"),
                                       (dict(min_rating=3), "no column of ratings")])
def test_conditions_that_cannot_be_met_are_refused(shop, how, words): assert words in shop(**how).said


# ---- 2: dates
@pytest.mark.parametrize("dates,ok", [("45322.5 45323", True), ("45322 45323", True), ("20240131 20240201", True), ("20240131101500 20240201101500", True), ("202401 202402", True), ("2024 2023", True),
                                      ("13 9", False), ("1 2", False), ("19753 19754", False), ("24-01-20 24-02-11", False), ("31.Januar.2024 1.Februar.2024", False)])
def test_bare_numbers_are_dates_or_refused(shop, dates, ok):
    s = shop(c="user,item,date\n" + "".join(f"u{k},{k + 1},{v}\n" for k, v in enumerate(dates.split())))
    if ok: assert all(pd.to_datetime(s.ds.interactions["timestamp"], unit="s").dt.year.isin([2023, 2024])), s.said
    else: assert s.ds is None and ("2024-01-31" in s.said) and "date" in s.said


@pytest.mark.parametrize("odd,words", [("0", "lies in 1970 or before, as do 1 of 2"), ("-86400", ""), ("9999999999", "in the future")])
def test_odd_dates_are_never_accepted_without_a_word(shop, odd, words):
    s = shop(c=f"user,item,date\na,1,1706659200\nb,2,{odd}\n")
    assert words in s.said and (s.kinds() or s.kinds("error"))


def test_release_dates_are_dates(shop):
    s = shop("item,title,year\n1,a,1995\n2,b,31.01.2001\n3,c,soon\n4,d,\n")
    assert s.ds.items["released"].fillna("").tolist() == ["1995", "2001-01-31", "", ""] and s.kinds() == ["unreadable release date"] and "1 of 3 cannot be read" in s.said
    with pytest.raises(AssertionError): shop("item,title,released\n1,a,03/04/2001\n2,b,05/06/2001\n", replace=True)  # refused: the older folder stays
    assert shop("item,title,released\n1,a,03/04/2001\n2,b,05/06/2001\n", dayfirst=True, replace=True).ds.items["released"].tolist() == ["2001-04-03", "2001-06-05"]


# ---- 3: ids
@pytest.mark.parametrize("click,item,kind", [("1", "001", "zeros"), ("1.0", "1", "decimal"), ("\u200b001", "001", "nobody sees"), ("00\u00a01", "00 1", "nobody sees"), ("cafe\u0301", "caf\u00e9", "decomposed"), ("ab", "AB", "capital"),
                                             ('="001"', "001", "quotes"), ("'001", "001", "quotes"), ("A 1", "A1", "spaces"), ("1.23457E+12", "1234567890123", "spreadsheet"), ("\ufeffx", "x", "nobody sees")])
def test_nearly_the_same_id_is_hinted_at(shop, click, item, kind):
    s = shop(f"item,title\n{item},a\n2,b\n", f"user,item\nann,{click}\nbob,2\n")
    assert s.pairs == [("bob", "2")] and s.kinds() == ["unknown product"] and kind in s.said and "perhaps" in s.said and repr(item) in s.said, s.said


def test_nearly_the_same_user_is_hinted_at(shop):
    assert shop(c="user,item\n1,1\n1.0,2\nAnn,3\nann,1\n2,2\n").kinds() == ["nearly the same id"]*2


@pytest.mark.parametrize("column,values,ok", [("item", [2.**60, 3.], False), ("item", np.array([2**25, 3], np.float32), False), ("item", [1.5, 3.], False), ("item", [1., 3.], True), ("item", ["NA", "1e5"], True),
                                              ("item", ["001", "null"], True), ("item", [True, False], False), ("item", [10**20, 3], True), ("user", [2.**60, 3.], False), ("item", ["a" * 300, "b"], True)])
def test_ids_of_frames(shop, column, values, ok):
    v = pd.Series(values, dtype=None if not isinstance(values[0], int) else object)
    p = pd.DataFrame(dict(item=v if column == "item" else ["x", "y"], title=["a", "b"]))
    c = pd.DataFrame(dict(user=v if column == "user" else ["u", "w"], item=p["item"]))
    s = shop(p, c)
    if ok: assert s.ds.item_ids.tolist() == [str(int(x)) if isinstance(x, (int, float)) else x for x in values]
    else: assert s.ds is None and f"has no {column} id in row 1" in s.said and "write ids as text" in s.said


def test_ids_are_object_arrays(tmp_path):
    from mamex.datasets.tables.importer import _dataset
    ds = _dataset("o", pd.DataFrame(dict(item=["x", "y" * 500], _row=[0, 1], _picture="")), pd.DataFrame(dict(user=["a"], item=["x"])), {}, {})
    assert ds.item_ids.dtype == ds.user_ids.dtype == object


# ---- 4: rows in, rows out; quotes; encodings
@pytest.mark.parametrize("p,line", [('item,title\n1,"Lamp\n2,Pot\n3,Cup\n', 2), ('item,title\n1,Lamp\n2,"Pot\n3,Cup\n', 3), ('item;title\n1;"Lamp"\n2;"Pot\n', 3), ('item\ttitle\n1\t"a"\n2\t"Pot\n3\tx\n', 3),
                                    ('item,title\n1,"19 inch\n2,Pot\n3,Cup 20"\n4,x\n', 2), ("item,title\n" + '1,"x\n' + "".join(f"{k},Pot\n" for k in range(2, 3000)) + '3000,20"\n', 2)])
def test_a_lone_quote_is_refused_with_its_line(shop, p, line):
    s = shop(p)
    assert s.ds is None and f"quote in line {line} " in s.said and "--quoting none" in s.said
    assert shop(p, quoting="none").ds.n_items == p.count("\n") - 1


@pytest.mark.parametrize("p,titles", [('item\ttitle\n1\t"Weird\n2\tPot "x"\n3\tCup\n', ['"Weird', 'Pot "x"', "Cup"]), ('item\ttitle\n1\t"Foo" bar\n2\tb\n3\tc\n', ['"Foo" bar', "b", "c"]),
                                      ('item,title\n1,"a \\"b, c\\" d"\n2,Pot\n3,x\n', ['a "b, c" d', "Pot", "x"]), ('item,title\n1,"two\nlines, more"\n2,5" disk\n3,"x ""y"""\n', ["two\nlines, more", '5" disk', 'x "y"']),
                                      ('item,title\n1,"a\n\nb"\n2,c\n3,d\n', ["a\n\nb", "c", "d"])])
def test_quotes_as_they_were_meant(shop, p, titles): assert shop(p).ds.items["title"].tolist() == titles


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffd\ufeff"), min_size=1, max_size=20).filter(lambda s: s.strip() == s)
@settings(max_examples=40, **QUICK)
@given(st.lists(st.one_of(TEXT, st.sampled_from(['a "b" c', "x, y", "two\nlines", 'say ""'])), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_any_quoted_table_comes_back(tmp_path_factory, titles, delimiter):
    f = tmp_path_factory.mktemp("t")/"p.csv"
    pd.DataFrame(dict(item=[f"A{k}" for k in range(len(titles))], title=titles)).to_csv(f, index=False, sep=delimiter, quoting=1)
    t = read_table(f)
    assert t.rows["title"].tolist() == titles and f"{len(titles)} row" in t.notes[0]


def test_rows_in_and_rows_out(shop):
    s = shop(c="user,item\nann,1\nann,1\nbob,2\n,3\ncat,9\ncat,3\n")
    assert "7 lines, 6 rows read" in s.said and "6 rows, 3 clicks kept, 1 without user or product, 1 on unknown products, 1 repeated" in s.said


WORDS = dict(fr="Théière crème\nChâteau été\nl’œuf", de="Größe Lampe\nTür\nSchön", es="Río español\n¿Qué niño?\nCorazón", ru="Лампа настольная\nКастрюля большая\nЧашка белая", ja="赤いランプ\n木のテーブル\nかわいいカップ",
             zh="红色台灯\n桌子\n咖啡杯", pl="Żółta łódź\nKrzesło drewniane\nLampa wisząca", cs="Červená židle\nDřevěný stůl\nKřeslo", el="Λάμπα\nΚαρέκλα κόκκινη\nΠοτήρι", ko="빨간 램프\n나무 의자\n컵")
ENCODED = [(l, e) for l, es in dict(fr="cp1252 mac_roman cp850 utf-16 utf-16-le utf-16-be utf-8-sig", de="cp1252 latin-1 mac_roman cp850", es="cp1252 mac_roman", ru="cp1251 koi8_r cp866 utf-16-le", ja="shift_jis euc_jp utf-16-le",
                                    zh="gbk big5 gb18030", pl="cp1250 iso8859_2", cs="cp1250 iso8859_2", el="cp1253", ko="euc_kr").items() for e in es.split()]


@pytest.mark.parametrize("language,encoding", ENCODED)
def test_encodings_are_right_or_asked_about(shop, language, encoding):
    titles = WORDS[language].encode(encoding, "ignore").decode(encoding).lstrip("\ufeff").split("\n")
    p = ("item,title\n" + "".join(f"{k + 1},{t}\n" for k, t in enumerate(titles))).encode(encoding)
    s = shop(p)
    if s.ds is None: assert "--encoding" in s.said and any(w in s.said for t in titles for w in t.split()), s.said
    else: assert s.ds.items["title"].tolist() == titles, s.said
    assert shop(p, encoding=encoding, replace=True).ds.items["title"].tolist() == titles
    if s.ds and not encoding.startswith("utf"): assert "it is not UTF-8" in s.said and titles[0].split()[0] in s.said  # sample words are shown


@pytest.mark.parametrize("bad", [b"\xff", b"\xe9", b"\x9d", b"\xc3", b"\xf0\x9f"])
def test_one_bad_byte_costs_one_character(shop, bad):
    p = "item,title\n".encode() + "".join(f"{k},café {k}\n" for k in range(1, 30)).encode() + b"30,b" + bad + b"d\n"
    s = shop(p)
    assert s.ds.items["title"].tolist()[:2] == ["café 1", "café 2"] and s.ds.items["title"].iloc[-1] == "b\ufffdd"
    assert [(x.kind, x.row) for x in s.problems if x.level == "warning"] == [("lost letter", 30)]


def test_two_encodings_in_one_file_and_the_wrong_one_are_refused(shop):
    assert "some of its lines are UTF-8 and others are not, the first in line 4" in shop("item,title\n1,café\n2,naïve\n".encode() + "3,été\n4,über\n".encode("cp1252")).said
    assert "cannot be read as utf-8" in shop("item,title\n1,Лампа\n2,Чашка\n".encode("cp1251"), encoding="utf-8").said
    assert "no encoding 'klingon'" in shop("item,title\n1,é\n".encode("cp1252"), encoding="klingon").said


def test_an_encoding_that_is_told_for_one_file_does_not_spoil_the_other(shop):
    p, c = "item,title\n1,Лампа\n".encode("cp1251"), "user,item\nAnné,1\n"
    assert "is valid UTF-8" in shop(p, c, encoding="cp1251").said
    s = shop(p, c, encoding="products=cp1251")
    assert s.ds.items["title"].tolist() == ["Лампа"] and s.ds.user_ids.tolist() == ["Anné"]


# ---- 5: pictures
@pytest.mark.parametrize("named,files,got", [
    (dict(A="shoes/1.jpg", B="hats/1.jpg"), "hats/1.jpg", dict(B="hats/1.jpg")),         # absent is absent
    (dict(A="shoes/1.jpg", B="hats/1.jpg"), "1.jpg", {}),                                # whose would it be?
    (dict(A="shoes/1.jpg", B="hats/2.jpg"), "1.jpg 2.jpg", dict(A="1.jpg", B="2.jpg")),  # all in one folder
    (dict(A="shoes/1.jpg"), "photos/shoes/1.jpg", dict(A="photos/shoes/1.jpg")), (dict(A="1.jpg"), "x/1.jpg y/1.jpg", {}),
    ({"1": "2.jpg", "2": "1.jpg"}, "1.jpg", {"2": "1.jpg"}), ({"1": "9.jpg", "2": "1.jpg"}, "1.jpg", {"2": "1.jpg"}), (dict(a="", A=""), "A.jpg", dict(A="A.jpg")),
    ({"1": "a.jpg", "2": "a.jpg"}, "a.jpg", {"1": "a.jpg", "2": "a.jpg"}), ({"1": "a.jpg", "2": "A.jpg"}, "a.jpg A.JPG", {"1": "a.jpg", "2": "A.JPG"}),
    ({"1": "a.jpg"}, "a.png", {"1": "a.png"}), ({"1": "a.jpg", "2": "a.png"}, "a.png", {"2": "a.png"}), ({"7": "x/a.jpg"}, "x/a.webp 7.jpg", {"7": "x/a.webp"}),
    ({"7": "x/a.jpg"}, "7.jpg", {"7": "7.jpg"}), ({"7": "x/a.jpg"}, "y/a.png", {}), ({"1": "https://s.example/p/a%20b.jpg?x=1"}, "p/a|b.jpg", {"1": "p/a|b.jpg"}),
    ({"1": "C:\\x\\a.JPG"}, "a.jpg", {"1": "a.jpg"}), ({"1": "a.jpg|b.jpg"}, "a.jpg b.jpg", {"1": "a.jpg"}), ({"1": "a"}, "a.jpg", {"1": "a.jpg"}),
    ({"café": "", "x": "caf\u00e9.jpg"}, "cafe\u0301.jpg", {"x": "cafe\u0301.jpg"}), ({"cafe\u0301": ""}, "caf\u00e9.png", {"cafe\u0301": "caf\u00e9.png"}),
    ({"a-B": ""}, "A-b.png", {"a-B": "A-b.png"}), ({"a.b": "", "a.c": ""}, "a.b.jpg a.c.png", {"a.b": "a.b.jpg", "a.c": "a.c.png"}), ({"0108775015": ""}, "010/0108775015.jpg", {"0108775015": "010/0108775015.jpg"})])
def test_which_picture_is_whose(named, files, got):
    assert match_pictures(list(named), [f.replace("|", " ") for f in files.split()], list(named.values())) == {k: v.replace("|", " ") for k, v in got.items()}


NAMES = st.sampled_from(["", "1.jpg", "2.jpg", "x/1.jpg", "y/1.jpg", "A.png", "a.png", "x/2.png", "gone.jpg"])
@settings(max_examples=300, **QUICK)
@given(st.lists(NAMES, min_size=4, max_size=4), st.sets(NAMES.filter(bool)))
def test_no_picture_of_another(named, files):
    "What a product names exactly it gets, and no other product gets that file unless it names it, too."
    ids = ["1", "2", "a", "A"]
    got = match_pictures(ids, sorted(files), named)
    for i, n in zip(ids, named):
        if n in files: assert got[i] == n
    for i, f in got.items():
        owners = {j for j, n in zip(ids, named) if n == f}
        assert not owners or i in owners or named[ids.index(i)].rpartition("/")[2] == f.rpartition("/")[2] and i in owners


def test_an_absent_picture_is_said(shop):
    s = shop("item,title,picture\n1,a,1.jpg\n2,b,gone.jpg\n03,c,\n", "user,item\na,1\nb,2\n", photos=["1.jpg", "3.jpg"])
    assert list(s.ds.images) == ["1"] and "row 2 ('2'): the picture 'gone.jpg' is not in photos" in s.said and "'3' here, '03' there" in s.said


# ---- 6: files of all manners
MANNERS = {
    "gzip": gzip.compress(P.encode(), mtime=0), "sep": "sep=;\n" + P.replace(",", ";"), "comment": "# of today\n" + P, "hash": "#" + P, "cr": P.replace("\n", "\r"), "crlf": P.replace("\n", "\r\n"), "quoted": '"item","title"\n1,Lamp\n2,Pot\n3,Cup\n',
    "trailing": "item,title,\n1,Lamp,\n2,Pot,\n3,Cup,\n", "blank": "\n\n" + P, "bom": "\ufeff" + P, "two signs": P.replace(",", "::"), "json lines": '{"item":1,"title":"Lamp"}\n{"item":"2","title":"Pot"}\n{"item":3.0,"title":"Cup"}\n',
    "json array": json.dumps([dict(item=k, title=t) for k, t in enumerate(("Lamp", "Pot", "Cup"), 1)]), "index": ",item,title\n0,1,Lamp\n1,2,Pot\n2,3,Cup\n", "recbole": P.replace("item,title", "item_id:token,title:token_seq")}


@pytest.mark.parametrize("how", MANNERS)
def test_files_of_all_manners(shop, how):
    s = shop(MANNERS[how])
    assert s.ds.item_ids.tolist() == ["1", "2", "3"] and s.ds.items["title"].tolist() == ["Lamp", "Pot", "Cup"], s.said


def test_parquet_keeps_long_ids_beside_missing_values(shop):
    pd.DataFrame(dict(item=["1152921504606846977", "3"], n=pd.array([2**60 + 1, None], "Int64"), title=["a", "b"])).to_parquet(b := io.BytesIO())
    assert shop(b.getvalue(), "user,item\nu,3\n", names=("p.parquet", "c.csv")).ds.items["n"].tolist()[0] == str(2**60 + 1)
    pd.DataFrame(dict(item=pd.array([2**60 + 1, 3], "Int64"), title=["a", "b"])).to_parquet(b := io.BytesIO())
    assert shop(b.getvalue(), f"user,item\nu,{2**60 + 1}\n", replace=True).pairs == [("u", str(2**60 + 1))]


z = io.BytesIO()
with zipfile.ZipFile(z, "w") as a: a.writestr("xl/workbook.xml", "x"); a.writestr("[Content_Types].xml", "x")
@pytest.mark.parametrize("c,words", [
    (b"", "is empty"), ("user,item\n", "no click is left"), ("user,item,item\na,1,1\n", "two columns named 'item'"), (z.getvalue(), "export it as CSV"), (b"\xd0\xcf\x11\xe0abc", "a spreadsheet"), ("<html><table>", "HTML"),
    ("u1,001,5.0,1355443200\nu2,002,3.0,1355443201\n", "no header"), ("1::1193::5::978300760\n2::661::3::978302109\n", "no header"), ("1\t1193\t5\t978300760\n", "no header"), ("ann,1\nann,2\n", "first line holds data"),
    ("2024-01-31,ann,1\n2024-02-01,bob,2\n", "first line holds data"), ("Clicks of May\nuser,item\na,1\n", "holds no column names"), ('{"a": 1, "b"', "JSON"), (gzip.compress(b"user,item\n", mtime=0)[:12], "gzip"), (b"\0\1\2", "zero bytes"), ("user,item\na,1,2\n", "3 values for 2 columns")])
def test_what_is_no_table_is_refused_with_a_remedy(shop, c, words):
    s = shop(c=c)
    assert s.ds is None and words in s.said


def test_a_told_column_does_not_make_data_a_header(shop): assert "first line holds data" in shop(c="ann,1\nann,2\nbob,3\n", columns={"user": "ann", "clicks.item": "1"}).said


# ---- 7: numbers and texts
@pytest.mark.parametrize("values,numbers", [("12,50 3", [12.5, 3]), ("€_12,50 3_€", [12.5, 3]), ("1.299,00 5,5", [1299, 5.5]), ("$1,299.50 7", [1299.5, 7]), ("5 n/a", [5, None]), ("1e3 2", [1000, 2]), ("007 12", None), ("1,299 5", None),
                                            ("red 5", None), ("- -", None), ("1.299.000 2", [1299000, 2]), ("nan inf", None), ("0.5 -1", [.5, -1]), ("899 1.299", None), ("2 1.125", [2, 1.125]), ("1.299 49,90", None), ("1_2 3", None)])
def test_numbers_apart_from_texts(values, numbers):
    n = _as_numbers(pd.Series([v.replace("_", " ") for v in values.split()]))
    assert n is None if numbers is None else [None if pd.isna(x) else x for x in n] == numbers


@pytest.mark.parametrize("amounts,where,users", [
    ("899 1.299 12.499", "amount>1000", "bc"), ("899 1,299 12,499", "amount>1000", "bc"), ("9,50 1.299,00 12", "amount>=12", "bc"), ("9.50 1,299.00 12", "amount>=12", "bc"),
    ("2 1.125 3.375", "amount<3", "ab"), ("2 1.125 3.375", "amount=1.125", "b"), ("899 1.299 12.499", "amount=1.299", "b"), ("899 1.299 12.499", "amount=1299", "b"),
    ("9,5 10,5 12", "amount>9,7", "bc"), ("10-20 20-30 10-20", "amount=10-20", "ac")])
def test_conditions_read_numbers_as_their_column_writes_them(shop, amounts, where, users):
    s = shop(c='user,item,amount\n' + "".join(f'{u},{k},"{x}"\n' for k, (u, x) in enumerate(zip("abc", amounts.split()), 1)), where=where)
    assert "".join(sorted(set(s.ds.user_ids))) == users, s.said


# ---- 8: the command
def test_the_command_says_it_and_its_status_tells(tmp_path):
    put(tmp_path, "p.csv", P); put(tmp_path, "c.csv", "user,item,event,rating\nann,1,view,5\nbob,2,buy,1\nann,3,buy,4\n")
    run = lambda *a: subprocess.run([sys.executable, "-m", "mamex.cli", "import", "p.csv", *a], cwd=tmp_path, capture_output=True, text=True)
    r = run("c.csv", "--to", "o", "--where", "event=buy", "--min-rating", "3")
    assert r.returncode == 0 and "1 click kept" in r.stdout and len(r.stdout.splitlines()) < 14, r.stdout + r.stderr
    put(tmp_path, "c.csv", "user,item,date\nann,1,soon\n")
    r = run("c.csv", "--to", "o2")
    assert r.returncode == 1 and r.stdout.count("soon") == 1 and "row 1" in r.stdout and "Nothing was written" in r.stdout
    put(tmp_path, "c.csv", 'user,item\nann,"1\nbob,2\n')
    r = run("c.csv", "--to", "o2")
    assert r.returncode == 2 and "line 2" in r.stderr and not (tmp_path/"o2").exists()
    r = run("c.csv", "--to", "o2", "--quoting", "none")
    assert r.returncode == 0 and "quotes" in r.stdout and "warning" in r.stdout  # '"1' is no product, but near one


def test_a_healthy_shop_is_a_dozen_lines(shop, tmp_path):
    s = shop("sku,name,description,brand,price\n001,Lamp,A lamp,Lux,12.5\n002,Pot,A pot,Pan,7\n", "customer_id,sku,order_date\na,001,2024-01-31\nb,002,2024-02-01\n", photos=["001.png", "002.png"])
    assert not s.problems and len(s.said.splitlines()) <= 12 and max(map(len, s.said.splitlines())) < 220


def test_an_archive_of_pictures_is_read_as_a_folder_is(tmp_path):
    "macOS writes UTF-8 names without saying so, decomposed, and its own files beside them; Windows writes backslashes."
    z = tmp_path / "photos.zip"
    accented = "Cafe\u0301.jpg".encode()
    with zipfile.ZipFile(z, "w") as a:
        for name in ("A" * len(accented), "sub\\P2.jpeg", "P3.jfif"): a.writestr(name, png())
        a.writestr("__MACOSX/._P3.jfif", b"x"); a.writestr(".DS_Store", b"x")
    z.write_bytes(z.read_bytes().replace(b"A" * len(accented), accented))  # the bytes of UTF-8, unmarked
    m = from_tables(put(tmp_path, "p.csv", "item,title\nCafé,a\nP2,b\nP3,c\n"), put(tmp_path, "c.csv", "user,item\nann,Café\nbob,P2\n"), z, tmp_path / "o")
    assert set(load_dataset(m.folder).images) == {"Café", "P2", "P3"} and not [p for p in m.problems if p.kind == "unread file"]


def test_a_broken_picture_of_an_archive_is_one_without_a_picture(tmp_path):
    "What comes of it is bytes that nobody can read, in `import` and in `add` alike: never an error of the archive's."
    from mamex.datasets.tables.products import picture_files
    z = tmp_path / "photos.zip"
    with zipfile.ZipFile(z, "w") as a: a.writestr("1.png", png())
    b = bytearray(z.read_bytes()); b[45] ^= 255; z.write_bytes(bytes(b))
    assert picture_files(z)[0]["1.png"]() == b""
    m = from_tables(put(tmp_path, "p.csv", P), put(tmp_path, "c.csv", C), z, tmp_path / "o")
    assert [p.id for p in m.problems if p.kind == "unreadable picture"] == ["1"] and not load_dataset(m.folder).images
