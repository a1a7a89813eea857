"""Files are written whole or not at all, and only what can be read to an end is opened."""

import io
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrlib.data import files
from cxrlib.data.files import (
    is_dicom,
    regular_file,
    take_back,
    walk_films,
    whole_file,
    whole_folder,
)
from cxrlib.data.images import file_digest


@pytest.fixture(autouse=True)
def new_process():
    """Left files are looked for once per process."""
    files._tidy.cache_clear()


def test_a_file_is_replaced_once_it_is_whole(tmp_path):
    table = tmp_path / "table.csv"
    (tmp_path / "link.csv").symlink_to(table)
    for content in ("first", "second"):
        with whole_file(tmp_path / "link.csv") as part:
            part.write_text(content)
            assert part.suffix == ".csv" and (content == "first") == (not table.exists())
        assert table.read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "link.csv"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path, error):
    table = tmp_path / "table.csv"
    table.write_text("old")
    with pytest.raises(type(error)), whole_file(table) as part:
        part.write_text("ne")
        raise error
    assert table.read_text() == "old" and list(tmp_path.iterdir()) == [table]


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []

    def noted(function, name):
        return lambda *given: (done.append(name), function(*given))[1]

    monkeypatch.setattr(os, "fsync", noted(os.fsync, "fsync"))
    monkeypatch.setattr(os, "replace", noted(os.replace, "rename"))
    monkeypatch.setattr(files, "_exchange", noted(files._exchange, "rename"))
    with whole_file(tmp_path / "table.csv") as part:
        part.write_text("new")
    with whole_folder(tmp_path / "run") as part:
        (part / "deep").mkdir()
        (part / "deep" / "run.json").write_text("{}")
        (part / "head.keras").write_text("")
    assert done == ["fsync", "rename", "fsync", "fsync", "rename"]


# --------------------------------------------------------------------------------------- kills

WRITER = """
import sys, itertools
from pathlib import Path
from cxrlib.data.files import whole_file, whole_folder
folder, film = Path(sys.argv[1]), Path(sys.argv[2])
print("begins", flush=True)
for n in itertools.count():
    with whole_folder(folder) as part:
        for name in ("run.json", "head.keras", "predictions.csv"):
            (part / name).write_text(str(n))
    with whole_file(film) as part:
        part.write_text(str(n))
"""


def start_writer(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path / "run", tmp_path / "film.jpg"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begins\n"
    return process


def parts_of_run(folder):
    return [(folder / name).read_text() for name in ("run.json", "head.keras", "predictions.csv")]


def test_killed_at_any_moment_there_is_a_run_and_nothing_is_left(tmp_path):
    moments, left = random.Random(0), 0
    for _ in range(12):
        with start_writer(tmp_path) as process:
            while not (tmp_path / "film.jpg").exists():
                assert process.poll() is None
            time.sleep(moments.uniform(0, 0.05))
            process.kill()
        assert len(set(parts_of_run(tmp_path / "run"))) == 1
        left += len(list(tmp_path.iterdir())) - 2
        assert [path.name for path in walk_films(tmp_path)] == ["film.jpg"]
    assert left
    with whole_folder(tmp_path / "run") as part:
        (part / "run.json").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "film.jpg"}


def test_two_at_once_both_succeed_and_a_run_is_always_there(tmp_path):
    with start_writer(tmp_path) as one, start_writer(tmp_path) as two:
        while not (tmp_path / "film.jpg").exists():
            pass
        assert all((tmp_path / "run").is_dir() for _ in range(30_000))
        assert one.poll() is None and two.poll() is None
        one.kill()
        two.kill()


def test_threads_of_one_process_do_not_share_a_part(tmp_path):
    def write(n):
        with whole_file(tmp_path / "table.csv") as part, whole_folder(tmp_path / "run") as folder:
            (folder / "run.json").write_text(str(n))
            part.write_text(str(n) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert len(set((tmp_path / "table.csv").read_text())) <= 2
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "run"}


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    with whole_folder(tmp_path / "run") as part, whole_file(tmp_path / "a.csv") as table:
        with whole_file(tmp_path / "b.csv") as other:
            other.write_text("b")
        code = "import sys; from cxrlib.data.files import whole_file as w\nwith w(sys.argv[1]): 0"
        subprocess.run([sys.executable, "-c", code, tmp_path / "c.csv"], check=True)
        assert part.exists() and table.exists()
    assert (tmp_path / "run").is_dir() and (tmp_path / "a.csv").exists()


def test_where_folders_cannot_be_exchanged_the_old_one_is_taken_back(tmp_path, monkeypatch):
    def fill(content):
        with whole_folder(tmp_path / "run") as part:
            (part / "run.json").write_text(content)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    fill("old")
    fill("new")
    rename = os.rename
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        calls = iter([rename])

        def killed(*paths):
            for call in calls:
                return call(*paths)
            raise KeyboardInterrupt

        patch.setattr(os, "rename", killed)
        fill("newer")
    assert not (tmp_path / "run").exists()
    take_back(tmp_path / "run")  # as whoever reads it does
    assert (tmp_path / "run" / "run.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --------------------------------------------------------------------------------- other files


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/dev/urandom", "/proc/uptime", "folder"])
def test_only_regular_files_are_opened(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(target)
    for read in (regular_file, file_digest):
        with pytest.raises(OSError, match=r"device, not a regular file: .*link") as caught:
            read(tmp_path / "link")
        assert str(tmp_path) not in caught.value.strerror
    assert not is_dicom(tmp_path / "link") and not is_dicom(tmp_path / "a\0b")


def pipe_behind_a_link(path):
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


# Name: what stands at the place, its name, and what is said.
PLACES = {
    "pipe": (pipe_behind_a_link, "x", "to write is .*x, a pipe, a device or a circle of links"),
    "circle": (lambda path: path.symlink_to("x"), "x", "a pipe, a device or a circle of links"),
    "zero byte": (lambda path: None, "a\0b", "to write has a zero byte behind '.*a': give another"),
}


@pytest.mark.parametrize("write", [whole_file, whole_folder])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_place_for_a_file_is_left_as_it_is(tmp_path, name, write):
    make, given, said = PLACES[name]
    make(tmp_path / given)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=said), write(tmp_path / given):
        raise AssertionError("given a part to write")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_that_is_not_there_is_told_by_the_name_that_was_given(tmp_path):
    with pytest.raises(OSError, match="No such file or directory: .*/gone/x.csv'$"):
        with whole_file(tmp_path / "gone" / "x.csv"):
            pass


def test_regular_files_links_to_them_and_files_in_memory_pass(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    for given in (tmp_path / "file", str(tmp_path / "link"), io.BytesIO(b"x")):
        assert regular_file(given) is given
    with pytest.raises(FileNotFoundError, match="gone"):
        regular_file(tmp_path / "gone")


def test_folders_may_be_nested_deeply(tmp_path):
    folder = tmp_path
    (tmp_path / "z.jpg").touch()
    for _ in range(1200):
        folder /= "d"
    subprocess.run(["mkdir", "-p", folder], check=True)
    (folder / "film.png").touch()
    try:
        assert list(walk_films(tmp_path)) == [folder / "film.png", tmp_path / "z.jpg"]
    finally:  # which Python 3.11 cannot
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_hidden_files_and_folders_hold_no_films(tmp_path):
    (tmp_path / ".part").mkdir()
    unfinished = f"{files.UNFINISHED}0.jpg"
    for name in (".film.jpg", "._film.jpg", unfinished, ".part/film.jpg", "film.jpg"):
        (tmp_path / name).touch()
    assert list(walk_films(tmp_path)) == [tmp_path / "film.jpg"]
