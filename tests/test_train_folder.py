"""Folders of pictures in every layout: which pictures and captions they give, and what is left out, with the reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import training_files as files
from PIL import Image

from train.__main__ import main
from train.data import folder
from train.data.dataset import checked

ROOT = Path(__file__).resolve().parents[1]


def read(path: Path, prompt: str = ""):
    """({name: (caption, repeats)}, {name: reason}) of a folder."""
    dataset = checked(folder.read(path, prompt))
    assert len({name for name, _ in dataset.left_out}) == len(dataset.left_out)
    return {p.name: (p.caption, p.repeats) for p in dataset.pictures}, dict(dataset.left_out)


def test_captions_beside_pictures(tmp_path):
    files.write(
        tmp_path,
        {
            "a.png": files.png(),
            "a.txt": "\ufeffa  red\tboat\r\n",
            "b.JPG": files.encoded(files.picture(1), "JPEG"),
            "b.caption": "a lake".encode("utf-16"),
            "deep/c.webp": files.encoded(files.picture(2), "WEBP"),
            "deep/c.TXT": "\r\n\r\na hill\r\na second line\r\n",
            "deep/c.caption": "another",
            "d.png": files.png(3),
            "e.png": files.png(4),
            "e.txt": " \r\n",
            "f.png": files.png(5),
            "f.txt": "café".encode("latin-1"),
            "nobody.txt": "a tree",
            "notes.docx": b"PK",
            ".DS_Store": b"",
            "._a.png": b"\0\5",
        },
    )
    pictures, left_out = read(tmp_path)
    assert pictures == {"a.png": ("a red boat", 1), "b.JPG": ("a lake", 1), "deep/c.webp": ("a hill", 1)}
    assert "d.txt beside it" in left_out.pop("d.png")
    assert "e.txt is empty" in left_out.pop("e.png")
    assert "f.txt can't be used: it is not UTF-8" in left_out.pop("f.png")
    assert left_out.keys() == {"deep/c.caption", "nobody.txt", "notes.docx", ".DS_Store", "._a.png"}
    assert folder.read(tmp_path, "").notes == [
        "1 caption files have several lines, of which the first is taken (deep/c.TXT is one)"
    ]


def test_kohya_folders(tmp_path):
    files.write(
        tmp_path,
        {
            "10_sks dog/a.png": files.png(),
            "10_sks dog/b.png": files.png(1),
            "10_sks dog/b.txt": "sks dog on a hill",
            "2_house_at night/c.png": files.png(2),
            "0_none/d.png": files.png(3),
            "99999999999_x/e.png": files.png(4),
            "log/f.png": files.png(5),
            "g.png": files.png(6),
            "1_/h.png": files.png(7),
        },
    )
    pictures, left_out = read(tmp_path)
    assert pictures == {
        "10_sks dog/a.png": ("sks dog", 10),
        "10_sks dog/b.png": ("sks dog on a hill", 10),
        "2_house_at night/c.png": ("house_at night", 2),
    }
    assert "0 repeats" in left_out["0_none/d.png"]
    assert "repeats" in left_out["99999999999_x/e.png"]
    assert "N_words" in left_out["log/f.png"]
    assert "N_words" in left_out["g.png"]
    assert "no caption" in left_out["1_/h.png"]
    assert read(tmp_path, "a photo")[0]["1_/h.png"] == ("a photo", 1)


def test_metadata_jsonl(tmp_path):
    rows = [
        {"file_name": "train/a.png", "text": "a boat"},
        {"file_name": "train\\b.png", "caption": "a lake", "score": 0.5},
        {"file_name": "gone.png", "text": "a hill"},
        {"text": "a hill"},
        {"file_name": "d.png", "one": "x", "two": "y"},
        {"file_name": "e.png", "text": "  "},
        {"file_name": "f.png", "description": "a tree"},
    ]
    lines = "\ufeff" + "\r\n".join([*map(json.dumps, rows), "", "not json", "[1]"])
    images = dict.fromkeys(("train/a.png", "train/b.png", "d.png", "e.png", "f.png", "g.png"), files.png())
    files.write(tmp_path, {**images, "metadata.jsonl": lines, "g.txt": "from beside", "metadata.parquet": b"PAR1"})
    pictures, left_out = read(tmp_path)
    expected = {"train/a.png": "a boat", "train/b.png": "a lake", "f.png": "a tree", "g.png": "from beside"}
    assert {name: caption for name, (caption, _) in pictures.items()} == expected
    assert "gone.png" in left_out["metadata.jsonl, line 3"]
    assert "no file_name" in left_out["metadata.jsonl, line 4"]
    assert "none of the columns" in left_out["d.png"]
    assert "text is empty" in left_out["e.png"]
    assert "not JSON" in left_out["metadata.jsonl, line 9"]
    assert "no JSON object" in left_out["metadata.jsonl, line 10"]
    assert "parquet" in left_out["metadata.parquet"]


def test_metadata_csv(tmp_path):
    rows = '\ufefffile_name,text\r\na.png,"a boat, at\r\nnight"\r\nb.png,"two ""quoted"" words"\r\ngone.png,x\r\nshort\r\n'
    files.write(tmp_path, {"a.png": files.png(), "b.png": files.png(1), "metadata.csv": rows})
    pictures, left_out = read(tmp_path)
    assert pictures == {"a.png": ("a boat, at night", 1), "b.png": ('two "quoted" words', 1)}
    assert len(left_out) == 2


def test_webdataset(tmp_path):
    content = files.tar(
        {
            "000.jpg": files.encoded(files.picture(), "JPEG"),
            "000.txt": "a boat\n",
            "000.json": json.dumps({"width": 40}),
            "001.png": files.png(1),
            "001.json": json.dumps({"caption": "a lake"}),
            "deep/002.PNG": files.png(2),
            "deep/002.caption": b"\xff\xfe\xfd",
            "003.png": files.png(3),
            "004.txt": "no picture",
            "005.npy": b"",
        }
    )
    files.write(tmp_path, {"0.tar": content, "1.tar": content[:1900], "2.tar.gz": b"\x1f\x8b", "3.tar": b"junk" * 200})
    pictures, left_out = read(tmp_path)
    assert pictures == {"0.tar: 000.jpg": ("a boat", 1), "0.tar: 001.png": ("a lake", 1)}
    assert "deep/002.caption can't be used" in left_out["0.tar: deep/002.PNG"]
    assert "no caption" in left_out["0.tar: 003.png"]
    assert left_out.keys() >= {"0.tar: 004.txt", "0.tar: 005.npy", "2.tar.gz", "3.tar"}
    assert any(name.startswith("1.tar") for name in left_out)
    only, _ = read(tmp_path / "0.tar", "a photo")
    assert only["0.tar: 003.png"] == ("a photo", 1)


def test_dreambooth_folder(tmp_path):
    files.write(tmp_path, {f"{k}.png": files.png(k) for k in range(3)})
    assert set(read(tmp_path, "a photo of  sks dog")[0].values()) == {("a photo of sks dog", 1)}
    assert read(tmp_path)[0] == {}


def test_names_of_other_systems(tmp_path):
    """The accents of macOS are two characters, those of the caption's name one; Windows' reserved names are names here."""
    accented, composed = "cafe\u0301", "caf\u00e9"
    names = {f"{accented}.png": files.png(), f"{composed}.txt": "a café", "CON.png": files.png(1), "CON.txt": "a port"}
    names |= {"日本 🌊.png": files.png(2), "日本 🌊.txt": "a wave", "a.b.c.png": files.png(3), "a.b.c.txt": "dots"}
    files.write(tmp_path, names)
    pictures, left_out = read(tmp_path)
    assert {caption for caption, _ in pictures.values()} == {"a café", "a port", "a wave", "dots"}
    assert left_out == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_file(tmp_path):
    files.write(tmp_path / "elsewhere", {"a.png": files.png(), "a.txt": "a boat"})
    root = files.write(tmp_path / "root", {"b.png": files.png(), "b.txt": "a lake"})
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe.png")
    pictures, left_out = read(root)
    assert pictures.keys() == {"b.png"}
    assert left_out.keys() == {"gone.png", "linked", "pipe.png"}


def run(capsys, *arguments) -> tuple[str, str]:
    """(what `python -m train` prints, the sentence that it ends with)."""
    ending = ""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        ending = str(error)
    return capsys.readouterr().out, ending


def test_the_report_names_everything(tmp_path, capsys):
    broken = {"cut.png": files.png()[:-200], "none.png": b"", "text.png": b"text", "bomb.png": files.bomb()}
    captions = {name.replace("png", "txt"): "a boat" for name in broken}
    wide = files.encoded(Image.new("RGB", (300, 100)))
    files.write(tmp_path, {**broken, **captions, "good.png": wide, "good.txt": "a wide boat", "x.psd": b""})
    printed, ending = run(capsys, "inspect", tmp_path, "--resolution", "128", "--more-resolutions", "64", "256")
    assert ending == ""
    assert "1 pictures, 1 with repeats; 5 left out" in printed
    assert "captions: .txt x 1" in printed
    assert "buckets of 128 pixels: 192x64 x 1" in printed
    assert "buckets of 64 pixels: 96x32 x 1" in printed
    assert "note: 1 pictures are smaller than their bucket of 256 pixels, and are enlarged (good.png is one)" in printed
    assert "smaller than their bucket of 128" not in printed
    assert 'for example good.png: "a wide boat"' in printed
    for name in (*broken, "x.psd"):
        assert f"left out: {name}: " in printed


def test_captions_of_which_the_rest_is_not_read(tmp_path, capsys):
    """75 tokens are read, which are not 75 letters."""
    captions = {"whole": "lake, " * 37 + "lake", "cut": "lake, " * 38, "short": "lake"}
    for k, (name, caption) in enumerate(captions.items()):
        files.write(tmp_path, {f"{name}.png": files.png(k), f"{name}.txt": caption})
    printed, _ = run(capsys, "inspect", tmp_path)
    assert "note: 1 captions are longer than 75 tokens, the rest of which is not read (cut.png is one)" in printed


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="macOS and Windows have no such names")
def test_names_that_are_no_utf8(tmp_path, capsys):
    """Pictures keep theirs; as a caption it won't do."""
    inside = tmp_path / os.fsdecode(b"2_caf\xe9")
    files.write(inside, {os.fsdecode(b"\xe9.png"): files.png(), os.fsdecode(b"\xe9.txt"): "a boat", "b.png": files.png(1)})
    printed, ending = run(capsys, "inspect", tmp_path)
    assert ending == ""
    assert "1 pictures, 2 with repeats; 1 left out" in printed
    assert 'for example 2_caf\\udce9/\\udce9.png: "a boat"' in printed
    assert "left out: 2_caf\\udce9/b.png: its caption is not UTF-8 text" in printed


def test_one_sentence_where_there_is_nothing(tmp_path, capsys):
    assert "does not exist" in run(capsys, "inspect", tmp_path / "nowhere")[1]
    assert "holds no files" in run(capsys, "inspect", tmp_path)[1]
    files.write(tmp_path, {"a.png": files.png()})
    assert "no caption" in run(capsys, "inspect", tmp_path)[1]
    assert "give the folder" in run(capsys, "inspect", tmp_path / "a.png")[1]


def test_as_a_command(tmp_path):
    files.write(tmp_path, {"a.png": files.png(), "a.txt": "a boat"})
    command = [sys.executable, "-m", "train", "inspect", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 pictures" in done.stdout
    assert "Traceback" not in done.stderr
