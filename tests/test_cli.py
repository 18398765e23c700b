"`mamex`: the commands as a shop uses them, with what people really have in their files."
import json, os, subprocess, sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from mamex import cli
from mamex.recommender import fitting, histories
from mamex.base import UsageError
from mamex.datasets.toy import toy
from mamex.recommender.core import Recommender
from conftest import ROOT

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A recommender of `toy`, whose last six items are new, and which reads every text column."
    ds = toy(n_users=60, n_items=50)
    ds = replace(ds, interactions=ds.interactions[ds.interactions["item"] < 44].reset_index(drop=True))
    return Recommender.fit(ds, "tiny", progress=False).save(tmp_path_factory.mktemp("shop")/"model")

def put(folder, name, content):
    (folder/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder/name


# ---- who is served
def test_one_unknown_user_or_item_stops_nobody(model, run, tmp_path):
    status, out, err = run("recommend", model, "--users", "u0000", "gone", "u0001", "--k", 2, "--out", tmp_path/"r.csv")
    t = pd.read_csv(tmp_path/"r.csv")
    assert status == 3 and t["user"].tolist() == ["u0000"]*2 + ["u0001"]*2 and "unknown users 'gone'" in err and err.count("gone") == 1
    status, out, err = run("explain", model, "i0001", "gone", "i0046")
    assert status == 3 and "i0001" in out and "i0046" in out and err.count("'gone'") == 1
    for argv in (["recommend", model, "--users", "gone"], ["explain", model, "gone"], ["recommend", model, "--users", "u0000", "--among", "gone"], ["explain", model, "i0001", "--user", "gone"]):
        status, out, err = run(*argv)
        assert status == 2 and "gone" in err and len(err.strip().splitlines()) == 1 and not out
    assert run("recommend", model, "--users", "u0000")[::2] == (0, "")


def test_among_mixes_words_and_ids(model, run, tmp_path):
    for among, n in ((["new"], 6), (["new", "i0001"], 7), (["all"], 50), (["all", "new"], 50), (["i0001", "i0002"], 2), (["new", "i0001", "gone"], 7)):
        status, _, err = run("recommend", model, "--users", "u0000", "--k", 99, "--with-seen", "--among", *among, "--out", tmp_path/"r.json")
        assert len(json.loads((tmp_path/"r.json").read_text())) == n and status == 3*("gone" in among) and ("unknown items 'gone'" in err) == ("gone" in among)


@pytest.mark.parametrize("text, users, says", [
    (b"u0001\r\nu0002\r\n", ["u0001", "u0002"], ""), (b"\xef\xbb\xbfu0001\n", ["u0001"], ""), ("u0001\nu0002\n".encode("utf-16"), ["u0001", "u0002"], ""),
    (b"user_id\nu0001\n", ["u0001"], "is taken for a heading"), (b"u0001\nu0001\nu0001\n", ["u0001"], "2 lines repeat"), (b"u0001\nm\xfcller\n", ["u0001"], "unknown users 'm"),
    (b"", [], "nobody is served"), (b"\n \n", [], "nobody is served"), (b"u1\nu0002", ["u0002"], "unknown users 'u1'"), (b'"u0003"\n', ["u0003"], "")])
def test_a_file_of_users(model, run, tmp_path, text, users, says):
    status, out, err = run("recommend", model, "--users-from", put(tmp_path, "u.txt", text), "--k", 1, "--out", tmp_path/"r.csv")
    assert pd.read_csv(tmp_path/"r.csv")["user"].tolist() == users and says in err
    assert status == (3 if "unknown" in says or "nobody" in says else 0)


def test_a_spreadsheet_has_been_at_the_ids(run, tmp_path):
    ds = toy(n_users=30, n_items=40)
    ds = replace(ds, user_ids=np.array([f"{n:04d}" for n in range(30)]), interactions=ds.interactions[(ds.interactions["user"] < 30) & (ds.interactions["item"] < 35)].reset_index(drop=True))
    m = Recommender.fit(ds, "tiny", progress=False).save(tmp_path/"m")
    for typed in ("7", "7.0", '="0007"', "0007 ", "\u200b0007"):
        status, _, err = run("recommend", m, "--users", typed)
        assert status == 2 and "'0007' there" in err


# ---- histories
@pytest.mark.parametrize("name, text", [
    ("h.csv", "user,item\nu,i0001\nu,i0002\nv,i0003\n"), ("h.csv", "session_id;sku\nu;i0001\nu;i0002\nv;i0003\n"), ("h.json", '{"u": ["i0001", "i0002"], "v": ["i0003"]}'),
    ("h.json", '[{"user": "u", "items": ["i0001", "i0002"]}, {"user": "v", "item": "i0003"}]'), ("h.json", '[{"user": "u", "item": "i0001"}, {"user": "u", "item": "i0002"}, {"user": "v", "item": "i0003"}]'),
    ("h.jsonl", '{"user": "u", "item": "i0001"}\n{"user": "u", "item": "i0002"}\n\n{"user": "v", "items": ["i0003"]}\n'), ("h.json", '{"user": "u", "items": ["i0001", "i0002"]}\n{"user": "v", "items": ["i0003"]}\n'),
    ("h.json", "\ufeff" + '{"u": ["i0001", "i0002"], "v": ["i0003"]}'), ("h.csv", "\ufeffuser\titem\nu\ti0001\nu\ti0002\nv\ti0003\n")])
def test_a_history_file_in_any_shape(model, run, tmp_path, name, text):
    assert dict(histories.read_histories(put(tmp_path, name, text))) == dict(u=["i0001", "i0002"], v=["i0003"])
    status, _, err = run("recommend", model, "--histories", tmp_path/name, "--k", 1, "--out", tmp_path/"r.csv")
    assert status == 0 and not err and pd.read_csv(tmp_path/"r.csv")["user"].tolist() == ["u", "v"]


@pytest.mark.parametrize("name, text, users, says", [
    ("h.json", "{}", [], "nobody is served"), ("h.json", "[]", [], "nobody is served"), ("h.csv", "user,item\n", [], "nobody is served"),
    ("h.json", '{"u": ["i0001"], "v": "i0002"}', ["u"], "the history of 'v' is 'i0002': write a list"),
    ("h.json", '{"u": ["i0001"], "v": 5}', ["u"], "the history of 'v' is 5"), ("h.json", '{"u": ["i0001"], "v": {"items": ["i0001"]}}', ["u"], "the history of 'v' is"),
    ("h.json", '{"u": ["i0001", "gone"]}', ["u"], "unknown items 'gone'"), ("h.json", '{"u": ["i0001"], "v": ["gone", "lost"]}', ["u"], "'v': of their histories no item is known"),
    ("h.json", '{"u": ["i0001", null, true, ["i0002"], 1.5]}', ["u"], "4 of the items of 'u' are no ids"), ("h.json", '{"u": ["i0001"], "u0000": ["i0002"]}', ["u"], "users 'u0000' are known"),
    ("h.csv", "user,item\nu,i0001\n,i0002\nv,\n", ["u"], "2 rows have no user or no item and are left out (row 2, 3)"), ("h.csv", "user,item\nu,i0001\nv,i0002,x\n", ["u"], "1 row has another number of values"),
    ("h.jsonl", '{"user": "u", "items": ["i0001"]}\n{"user": "v", "items": [\n', ["u"], "1 row has no record of a user and items")])
def test_what_is_odd_in_histories_is_told_and_stops_nobody(model, run, tmp_path, name, text, users, says):
    status, _, err = run("recommend", model, "--histories", put(tmp_path, name, text), "--k", 1, "--out", tmp_path/"r.csv")
    assert status == 3 and says in err and pd.read_csv(tmp_path/"r.csv")["user"].tolist() == users, err


@pytest.mark.parametrize("text", ['{"u": ["i0001"], "v": []}', '{"u": ["i0001"], "v": null}'])
def test_who_has_no_history_is_served_and_told(model, run, tmp_path, text):
    status, _, err = run("recommend", model, "--histories", put(tmp_path, "h.json", text), "--k", 1, "--out", tmp_path/"r.csv")
    assert status == 0 and "the history of 'v' is empty: the average user is taken" in err and pd.read_csv(tmp_path/"r.csv")["user"].tolist() == ["u", "v"]


@pytest.mark.parametrize("name, text, says", [("h.json", '{"u": ["i0001"], "u": ["i0002"]}', "'u' stands twice"), ("h.json", '{"u": [', "cannot be read as JSON"), ("h.json", '"u"', "write an object"), ("h.json", "7", "write an object"),
    ("h.json", '["u", "v"]', "record 1 of the histories is 'u'"), ("h.json", '{"v": "i0001"}', "nobody can be served; the history of 'v' is 'i0001'"), ("h.json", '{"v": ["gone"]}', "nobody can be served; unknown items 'gone'"),
    ("h.csv", "", "is empty"), ("h.csv", "user,item\n,i1\n", "1 row has no user"), ("h.csv", "a,b\n1,2\n", "not clear")])
def test_histories_that_serve_nobody_are_refused(model, run, tmp_path, name, text, says):
    status, out, err = run("recommend", model, "--histories", put(tmp_path, name, text))
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1 and not out


def test_rows_that_repeat_are_told_and_nothing_is_refused(model, run, tmp_path):
    status, _, err = run("recommend", model, "--histories", put(tmp_path, "h.csv", "user,item\nu,i0001\nu,i0001\n"), "--k", 1)
    assert status == 0 and "1 row repeats a click" in err
    pd.DataFrame(dict(user=["u", None], item=["i0001", "i0002"])).to_parquet(tmp_path/"h.parquet")
    status, _, err = run("recommend", model, "--histories", tmp_path/"h.parquet", "--k", 1)
    assert status == 3 and "1 row has no user or no item" in err


def test_numbers_in_json_are_their_digits(tmp_path):
    h = histories.read_histories(put(tmp_path, "h.json", '{"1": [7, 7.0, 123456789012345678, "007", 1e3]}'))
    assert dict(h) == {"1": ["7", "123456789012345678", "007", "1000"]} and not h.notes
    assert "lose the last digits" in histories.read_histories(put(tmp_path, "h.json", '{"1": [1e17, 7]}')).notes[0]


# ---- new items
def test_an_item_of_which_nothing_is_read_is_left_out_by_name(model, run, tmp_path):
    import shutil
    shutil.copytree(model, m := tmp_path/"m")
    status, out, err = run("add", m, put(tmp_path, "p.csv", "sku,title,colour,size\nA,A lamp,red,4\nB,,blue,5\n"))
    assert status == 3 and "'B'" in err and "1 of 2 items added" in out and "columns not read: colour, size" in out and "lacks: description" in out
    status, out, err = run("add", m, put(tmp_path, "p.csv", "sku,colour\nC,red\n"))
    assert status == 2 and "'C'" in err and "colour" in err and "title, description" in err and len(err.strip().splitlines()) == 1
    assert run("explain", m, "A")[0] == 0 and run("explain", m, "B")[0] == 2
    status, out, err = run("add", m, put(tmp_path, "p.csv", "sku,title\n"))
    assert status == 2 and "holds no product" in err


def test_a_known_item_is_left_out_by_name_and_stops_nobody(model, run, tmp_path):
    "Status 3 and the remedy at the end; the known ones keep their rows, also with a picture of theirs, and `--replace` takes the new ones."
    import shutil
    shutil.copytree(model, m := tmp_path/"m")
    (tmp_path/"photos").mkdir()
    for name in ("i0001", "A"): Image.new("RGB", (16, 16), "red").save(tmp_path/"photos"/f"{name}.png")
    before = Recommender.load(m)
    table = put(tmp_path, "p.csv", "sku,title\nA,A lamp\ni0001,Something else\nB,\ni0002,Another\n")
    status, out, err = run("add", m, table, "--pictures", tmp_path/"photos")
    assert status == 3 and "1 of 4 items added, 1 with a picture" in out and "51 items" in out
    nothing, known = err.splitlines()
    assert "the model reads nothing of them: 'B';" in nothing and known == "left out, because they are known already: 'i0001', 'i0002'; to replace them, say --replace."
    after = Recommender.load(m)
    assert after.items["item"].tolist() == [*before.items["item"], "A"] and after.items["title"].tolist()[:50] == before.items["title"].tolist() and np.array_equal(after.e[:50], before.e)
    status, out, err = run("add", m, put(tmp_path, "q.csv", "sku,title\ni0001,Something else\n"))
    assert status == 2 and "'i0001' are known" in err and "--replace" in err and len(err.strip().splitlines()) == 1
    status, out, err = run("add", m, table, "--pictures", tmp_path/"photos", "--replace")
    assert status == 3 and "3 of 4 items added" in out and "'B'" in err and "known" not in err
    assert Recommender.load(m).items.set_index("item")["title"]["i0001"] == "Something else" and not np.array_equal(Recommender.load(m).e[1], before.e[1])


def test_numbers_in_a_text_column_stay_as_they_are_written(model, run, tmp_path):
    import shutil
    shutil.copytree(model, m := tmp_path/"m")
    assert run("add", m, put(tmp_path, "p.csv", "sku,title\nA,300\nB,1917\nC,0.50\n"))[0] == 0
    assert Recommender.load(m).items["title"].tolist()[-3:] == ["300", "1917", "0.50"]


# ---- explain, settings, pipes
def test_explain_says_who_carried_the_score(model, run):
    status, out, _ = run("explain", model, "i0046", "i0045", "--user", "u0003", "--n", 2)
    assert status == 0 and out.count("for u0003") == 2 and "further items" in out and "exact:" in out
    for block in out.split("score of ")[1:]:
        lines = block.split("exact:")[0].splitlines()
        score = float(lines[0].split(": ")[1].split(",")[0])
        assert sum(float(l.split()[0]) for l in lines[1:] if l.strip()) == pytest.approx(score, abs=1e-3)
    assert "for this history" in run("explain", model, "i0046", "--history", "i0001", "i0002")[1]


def test_settings_are_read_as_the_preset_says():
    assert fitting.typed_settings(dict(ridge=".3", damp="0,.5", n_experts="99"), "best") == dict(ridge=.3, damp=(0., .5), n_experts=99)
    for words, name, says in ((["ridge=x"], "best", "of type float"), (["n_experts=1.5"], "best", "of type int"), (["damp=a,b"], "best", "with commas"), (["lr=x"], "released", "of type float")):
        with pytest.raises(UsageError, match=says): fitting.typed_settings(cli.pairs(words, "setting"), name)
    with pytest.raises(UsageError, match="unknown preset"): fitting.typed_settings({}, "bestest")


def test_fit_says_what_it_chose_and_whether_it_beats_the_floors(run, tmp_path):
    status, out, err = run("fit", "toy", "--to", tmp_path/"m", "--set", "ridge=.3")
    assert status == 0 and "encoder: tiny (toy's own)" in out and "damping" in out and "floors on the same views: ridge/" in out and "Weight of the views: " in out and "epoch" not in out
    assert any(w in out for w in ("better than the strongest floor", "A tie:", "A loss:")) and Recommender.load(tmp_path/"m").model.config.ridge == .3
    status, out, err = run("fit", "toy", "--to", tmp_path/"m2", "--preset", "released", "--set", "epochs=1", "eval_every=1")
    assert status == 0 and "1 epoch chosen" in out
    assert run("fit", "toy", "--to", tmp_path/"m3", "--set", "epochs=5")[0] == 2
    (tmp_path/"taken").mkdir(); (tmp_path/"taken"/"letter").write_text("dear")
    assert "choose another place" in run("fit", "toy", "--to", tmp_path/"taken")[2]


def test_attributes_through_the_same_door(run, tmp_path):
    from mamex.datasets.folders import save_dataset
    ds = toy(n_users=60, n_items=60)
    ds = replace(ds, items=pd.DataFrame(dict(item=ds.item_ids, attributes=[f"brand{n % 7} kind{n % 5}" for n in range(60)])), images=None, interactions=ds.interactions[ds.interactions["item"] < 50].reset_index(drop=True))
    save_dataset(ds, tmp_path/"shop")
    for argv in ((), ("--encoder", "attributes")):
        status, out, err = run("fit", tmp_path/"shop", "--to", tmp_path/"m", *argv)
        assert status == 0, err
        assert ("encoder: attributes (neither pictures nor texts)" in out) == (not argv)
    assert run("recommend", tmp_path/"m", "--users", "u0001")[0] == 0
    status, _, err = run("add", tmp_path/"m", put(tmp_path, "p.csv", "item,attributes\nx,brand1 kind2\n"))
    assert status == 0 and "1 of 1 items added" in _ and run("recommend", tmp_path/"m", "--users", "u0001", "--among", "x")[0] == 0
    assert run("fit", tmp_path/"shop", "--to", tmp_path/"old", "--preset", "released", "--set", "epochs=1", "eval_every=1")[0] == 0
    status, _, err = run("add", tmp_path/"old", tmp_path/"p.csv")
    assert status == 2 and "reads attributes" in err and "fit again" in err


def test_roles_are_told_and_can_be_changed(run, tmp_path):
    from mamex.datasets.folders import save_dataset
    save_dataset(toy(n_users=60, n_items=60), tmp_path/"shop")
    assert "the columns are read as title: title, description: text" in run("check", tmp_path/"shop")[1]
    status, out, err = run("fit", "toy", "--to", tmp_path/"m", "--roles", "description=ignore")
    views = Recommender.load(tmp_path/"m").model.modalities
    assert status == 0 and "title words" in views and "description words" not in views, err
    for words, says in ((["price=number"], "roles name 'price'"), (["title=words"], "the role of 'title' is 'words'"), (["title"], "is no role")):
        status, _, err = run("fit", "toy", "--to", tmp_path/"n", "--roles", *words)
        assert status == 2 and says in err
    assert "roles are for a solved model" in run("fit", "toy", "--to", tmp_path/"n", "--preset", "released", "--roles", "title=text")[2]


# ---- reports
def test_reports_is_the_parser_of_regenerate(run, monkeypatch):
    from mamex.studies import regenerate
    status, out, _ = run("reports", "--help")
    assert status == 0 and out.startswith("usage: mamex reports ") and all(o in out for o in ("NAME", "--only A,B", "--jobs N", "--force", "-p NAME VALUE"))
    taken = []
    monkeypatch.setattr(regenerate, "main", lambda argv: taken.append(argv) or 1)
    words = ["toy", "--only", "run,audit", "--jobs", "2", "--force", "-p", "seeds", "0,1"]
    assert run("reports", *words)[0] == 1 and taken == [words]
    assert run("reports", "--force", "toy")[0] == 1 and taken[-1] == ["--force", "toy"]
    for words in ([], ["toy", "--jobs", "x"], ["toy", "--fast"], ["toy", "more"]): assert run("reports", *words)[0] == 2 and len(taken) == 2


def test_reports_says_what_cannot_be(run):
    status, out, err = run("reports", "toy", "--only", "runs")
    assert status == 2 and "'runs'" in err and "did you mean 'run'" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["import", "--help"], ["recommend", "--help"], ["check", "toy", "--no-pictures"]])
def test_nobody_waits_for_torch_who_does_not_need_it(words):
    code = f"import sys; from mamex.cli import main\ntry: main({words})\nexcept SystemExit: pass\nprint('torch' in sys.modules, 'mamex.studies.regenerate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


@pytest.mark.parametrize("line", ["recommend {m} --among all --k 50 --with-seen", "explain {m} " + " ".join(f"i{n:04d}" for n in range(50)), "--help"])
def test_a_reader_who_stops_is_no_error(model, line):
    done = subprocess.run(f"{sys.executable} -m mamex.cli {line.format(m=model)} | true; echo ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash", capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert not done.stderr and done.stdout.strip() in ("141", *["0"]*(line == "--help"))  # argparse writes its help by itself
