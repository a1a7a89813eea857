"""Features on disk: what is kept is what was computed, whatever happens to process or file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cxrlib.model import store as module
from cxrlib.model.store import Rows, StoreError, gather

SHAPE = (2, 2, 64)
COUNT = 40


@pytest.fixture
def films(tmp_path):
    (tmp_path / "films").mkdir()
    paths = [tmp_path / "films" / f"{number:02}" for number in range(COUNT)]
    for path in paths:
        path.write_text(path.name)
    return paths


def features_of(film):
    rng = np.random.default_rng(int(Path(film).read_text()))
    return rng.normal(size=SHAPE).astype(np.float16)


def compute(tasks):
    for numbers, films in tasks:
        yield numbers, [features_of(film) for film in films]


def keep(films, cache, compute=compute, settings="a" * 64, shape=SHAPE):
    return gather(settings, shape, films, cache, compute, 8)


def noting(seen):
    """Return a way to compute features that notes of which films."""

    def compute_and_note(tasks):
        for numbers, films in tasks:
            seen.extend(films)
            yield from compute([(numbers, films)])

    return compute_and_note


def refuse(tasks):
    pytest.fail("films are computed again")


def expected(films):
    return np.stack([features_of(film) for film in films])


def test_rows_come_in_the_order_asked_for_and_stay_on_disk(films, tmp_path, monkeypatch):
    keep(films, tmp_path / "cache")
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    some = [*films[30:], films[3], films[3], *films[5:20]]
    rows = keep(some, tmp_path / "cache", refuse)
    wanted = expected(some)
    assert isinstance(rows, Rows) and rows.shape == wanted.shape and len(rows) == len(wanted)
    assert rows[:1].dtype == wanted.dtype
    mask = np.arange(len(some)) % 3 == 0
    for key in (slice(3, 15), slice(None, None, -2), 7, -1, mask, [4, 2, 2], (slice(2, 9), 0, 1)):
        assert np.array_equal(rows[key], wanted[key]), key
    assert np.asarray(rows, np.float32).dtype == np.float32 and (np.asarray(rows) == wanted).all()
    # Any program can open the file.
    (file,) = tmp_path.glob("cache/*/features.npy")
    assert (np.load(file, mmap_mode="r") == expected(films)).all()


def test_a_store_grows_by_new_films_alone(films, tmp_path):
    seen = []
    keep([films[0], films[0], *films[:10]], tmp_path / "cache", noting(seen))
    made = keep(films[5:][::-1], tmp_path / "cache", noting(seen))
    assert (made == expected(films[5:][::-1])).all()
    assert sorted(seen) == films  # each once


def out_of_order(tasks):
    yield from reversed(list(compute(tasks)))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_store as test
from cxrlib.model import store
calls, write = 0, store._write
for moment in range(1, 200):
    child = os.fork()
    if not child:
        store._write = lambda *a: (globals().update(calls=calls + 1),
            os.kill(os.getpid(), signal.SIGKILL) if calls == moment else write(*a))
        test.keep(sorted(Path(sys.argv[2]).iterdir()), Path(sys.argv[3]) / str(moment))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(moment)
"""


def test_killed_before_any_write_it_ends_with_the_same_bytes(films, tmp_path):
    for film in films[COUNT // 3 :]:
        film.unlink()
    films = films[: COUNT // 3]
    done = keep(films, tmp_path / "undisturbed", out_of_order)
    whole = [file.read_bytes() for file in sorted(tmp_path.glob("undisturbed/*/*"))]
    given = [Path(__file__).parent, films[0].parent, tmp_path / "killed"]
    command = [sys.executable, "-c", KILLED, *map(str, given)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) == 2 * len(films) + 2 + 1  # moments: rows and checks, index and header
    for cache in (tmp_path / "killed").iterdir():
        assert keep(films, cache).tobytes() == done.tobytes()
        assert [file.read_bytes() for file in sorted(cache.glob("*/*"))] == whole


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 64
    file.write_bytes(content)


ROW = 2 * int(np.prod(SHAPE))


@pytest.mark.parametrize(
    "name, damage, warned",
    [
        ("features.npy", lambda file: flip(file, -1), 1),
        ("features.npy", lambda file: os.truncate(file, file.stat().st_size - 2 * ROW - 3), 3),
        ("features.npy", lambda file: flip(file, 60), 0),  # its header, written anew
        ("features.npy", Path.unlink, COUNT),
        ("features.npy", lambda file: file.write_bytes(b""), COUNT),
        ("index", lambda file: flip(file, -1), 1),  # a checksum
        ("index", lambda file: flip(file, -36), 0),  # a film's digest: the film is a new one
        ("index", lambda file: os.truncate(file, file.stat().st_size - 5), 0),
        ("index", Path.unlink, 0),
        ("index", lambda file: file.write_bytes(b"half"), 0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_rows_are_found_and_made_anew(films, tmp_path, name, damage, warned):
    keep(films, tmp_path / "cache")
    (file,) = tmp_path.glob(f"cache/*/{name}")
    damage(file)
    if warned:
        with pytest.warns(UserWarning, match=f"{warned} damaged rows of .*features.npy are made"):
            made = keep(films, tmp_path / "cache")
    else:
        made = keep(films, tmp_path / "cache")
    assert (made == expected(films)).all()
    assert (keep(films, tmp_path / "cache", refuse) == made).all()
    (file,) = tmp_path.glob("cache/*/features.npy")
    assert (np.load(file)[:COUNT][:-1] == expected(films)[:-1]).all()


def test_features_of_other_settings_are_not_mixed_in(films, tmp_path):
    keep(films, tmp_path)
    keep(films, tmp_path, settings="b" * 64)
    a, b = sorted(tmp_path.glob("*-grid2"))
    with pytest.raises(StoreError, match="aaa-grid2 holds features of other settings. Give ano"):
        keep(films, tmp_path, shape=(2, 2, 65))
    b.rename(tmp_path / "c")
    a.rename(b)
    with pytest.raises(StoreError, match="bbb-grid2 holds features of other settings"):
        keep(films, tmp_path, settings="b" * 64)


def test_a_full_disk_is_told_and_what_was_done_is_kept(films, tmp_path):
    keep(films[:8], tmp_path / "small")
    (small,) = (file.stat().st_size for file in tmp_path.glob("small/*/features.npy"))
    command = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_store as test\nfrom pathlib import Path\nimport resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from cxrlib.model import store\n"
        "grow, store.os.truncate = store.os.truncate, lambda *_: None  # as a sparse file\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({small}, -1))\n"
        "try: test.keep(sorted(Path(sys.argv[2]).iterdir()), Path(sys.argv[3]))\n"
        "except store.StoreError as error: print(error)\n"
    )
    given = map(str, [Path(__file__).parent, films[0].parent, tmp_path / "cache"])
    child = subprocess.run([sys.executable, "-c", command, *given], capture_output=True, text=True)
    assert "cannot be written: File too large. Features that are done are kept" in child.stdout
    seen = []
    assert (keep(films, tmp_path / "cache", noting(seen)) == expected(films)).all()
    assert seen == films[8:]


def test_two_processes_fill_one_store(films, tmp_path):
    command = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_store as test, time\nfrom pathlib import Path\n"
        "films = sorted(Path(sys.argv[2]).iterdir())[int(sys.argv[4]):][:30]\n"
        "slow = lambda tasks: (time.sleep(0.05) or x for x in test.compute(tasks))\n"
        "while not (Path(sys.argv[3]) / 'go').exists(): time.sleep(0.001)\n"
        "made = test.keep(films, Path(sys.argv[3]), slow)\n"
        "assert (made == test.expected(films)).all()\n"
    )
    (cache := tmp_path / "cache").mkdir()
    given = map(str, [Path(__file__).parent, films[0].parent, cache])
    command = [sys.executable, "-c", command, *given]
    children = [subprocess.Popen([*command, start], stderr=subprocess.PIPE) for start in "09"]
    time.sleep(1)
    (cache / "go").touch()
    for child in children:
        _, told = child.communicate()
        assert child.returncode == 0, told.decode()
    assert (keep(films[:39], cache, refuse) == expected(films[:39])).all()
    (index,) = cache.glob("*/index")
    assert index.stat().st_size == module.ENTRY.itemsize * (1 + 39)  # none has two places
