"""Each kind of bad table and place once, through the command: a sentence, soon, nothing left."""

import gzip
import os
import resource
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from cxrlib import cli
from damage import FILM
from reading import is_sentence

SECONDS = 60  # of anything; most take less than one


def raw(content):
    return lambda path: path.write_bytes(content)


def link(target):
    return lambda path: path.symlink_to(target)


def table_of(text):
    """A study of one film whose labels.csv holds `text`."""

    def make(folder):
        (folder / "study" / "images").mkdir(parents=True)
        shutil.copy(FILM, folder / "study" / "images" / "a_0.jpg")
        (folder / "study" / "labels.csv").write_bytes(text)

    return make


def labels(make):
    """A study whose labels.csv is something else than a file."""

    def both(folder):
        table_of(b"")(folder)
        (folder / "study" / "labels.csv").unlink()
        make(folder / "study" / "labels.csv")

    return both


def publishers(name, make):
    """A study without labels.csv that has something by the name of a table."""

    def both(folder):
        (folder / "study").mkdir()
        make(folder / "study" / name)

    return both


def nothing(folder):
    pass


ROWS = b"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly\n" * 99
LINES = ROWS[: ROWS.index(b"\n")] + b"\n" * 2_200_000


def in_images(make):
    def both(folder):
        table_of(b"filename,label\nb_0.jpg,A\n")(folder)
        make(folder / "study" / "images" / "link")

    return both


def simulated(text):
    def make(folder):
        (folder / "new").mkdir()
        (folder / "new" / "phantom.json").write_text(text)

    return make


# Name: what is made in an empty folder, the command given there, a word of what is said.
STUDY = ["study", "study"]
COMMANDS = {
    "empty table": (table_of(b""), STUDY, "labels.csv"),
    "no table": (table_of(b"\x00\xff" * 500), STUDY, "labels.csv"),
    "another table": (table_of(b"name,disease\na_0.jpg,Effusion\n"), STUDY, "labels.csv"),
    "column twice": (table_of(b"filename,label,label\na_0.jpg,A,B\n"), STUDY, "label"),
    "ragged table": (table_of(b'filename,label\n"a_0.jpg,A\nb,c,d,e\n'), STUDY, "labels.csv"),
    "rows without films": (table_of(b"filename,label\nb\0_0.jpg,A\n../x.jpg,B\n"), STUDY, ""),
    "pipe for a table": (labels(os.mkfifo), STUDY, "labels.csv"),
    "endless table": (labels(link("/dev/zero")), STUDY, "labels.csv"),
    "folder for a table": (labels(Path.mkdir), STUDY, "labels.csv"),
    "pipe for a study": (lambda folder: os.mkfifo(folder / "study"), STUDY, "study"),
    "pipe for a publisher's table": (publishers("train.csv", os.mkfifo), STUDY, "does not exist"),
    "pipe for boxes": (publishers("boxes.json", os.mkfifo), STUDY, "does not exist"),
    "deep boxes": (publishers("boxes.json", raw(b"[" * 99_999)), STUDY, "does not exist"),
    "cut archive": (publishers("a.csv.gz", raw(gzip.compress(ROWS)[:-9])), STUDY, "does not exist"),
    "endless lines": (publishers("a.csv.gz", raw(gzip.compress(LINES))), STUDY, "too long"),
    "circle of links": (in_images(link("link")), STUDY, "file missing in images/"),
    "zero byte to write": (
        table_of(b"filename,label\na_0.jpg,A\n"),
        [*STUDY, "--write", "a\0b"],
        "the file to write has a zero byte",
    ),
    "zero byte for a study": (nothing, ["phantom", "--out", "a\0b"], "out has a zero byte"),
    "zero byte for a folder": (
        nothing,
        ["download", "nih-sample", "--out", "a\0b"],
        "folder has a zero byte",
    ),
    "deep phantom.json": (simulated("[" * 99_999), ["phantom", "--out", "new"], "phantom.json"),
    "no study": (nothing, STUDY, "study"),
    "name too long": (nothing, ["study", "a" * 5000], ""),
    "no patients": (nothing, ["phantom", "--out", "new", "--patients", "0"], "patients is 0"),
    "file for a folder": (
        lambda folder: (folder / "new").write_text("mine"),
        ["phantom", "--out", "new", "--patients", "1"],
        "new",
    ),
    "table for a folder": (
        lambda folder: (folder / "new").write_text("mine"),
        ["download", "nih-sample", "--out", "new"],
        "new",
    ),
}


@pytest.fixture
def soon():
    """Fail a test that does not end."""

    def late(*_):
        raise AssertionError("no end")

    memory = resource.getrlimit(resource.RLIMIT_AS)
    room = psutil.Process().memory_info().vms + (4 << 30)  # tests before this one have taken some
    resource.setrlimit(resource.RLIMIT_AS, (room, memory[1]))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, memory)


def told(arguments, folder):
    """Return what a command says that fails, and that it leaves everything as it was."""
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, str) and ended.value.code.startswith("cxr: ")
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
    return ended.value.code.removeprefix("cxr: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_table_or_place_is_said_in_a_sentence(name, tmp_path, monkeypatch, soon):
    make, arguments, word = COMMANDS[name]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = told(arguments, tmp_path)
    assert word in said and is_sentence(said), said
