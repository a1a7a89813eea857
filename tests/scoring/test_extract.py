"""Features by several processes: the store and the bits of one process, also when a worker dies."""

import logging
import shutil

import numpy as np
import pytest

from cxrlib.data.images import ImageError
from cxrlib.model.backbone import BackboneError, extract_features, load_backbone
from cxrlib.model.store import Store
from cxrlib.scoring import extract as module
from cxrlib.scoring.cluster import ClusterError
from cxrlib.scoring.extract import extract_on_workers


@pytest.fixture(scope="module")
def small():
    return load_backbone("EfficientNetLite2", image_size=96, layer="stage4")


@pytest.fixture(scope="module")
def paths(medical):
    return sorted((medical / "images").glob("*.jpg"))[:40]


@pytest.fixture(scope="module")
def alone(small, paths, tmp_path_factory):
    """Features and files that one process makes."""
    cache = tmp_path_factory.mktemp("alone")
    return extract_features(small, paths, 3, cache), content_of(cache)


@pytest.fixture(scope="module")
def cluster():
    """A worker, which is there anew when it dies."""
    from distributed import LocalCluster

    one = {"n_workers": 1, "threads_per_worker": 1, "silence_logs": logging.CRITICAL}
    with LocalCluster(**one, dashboard_address=None, security=True) as cluster:
        yield cluster


def content_of(cache):
    return {file.name: file.read_bytes() for file in cache.glob("*/*")}


@pytest.mark.portable
def test_a_killed_worker_loses_nothing_and_changes_no_byte(
    small, paths, alone, cluster, tmp_path, monkeypatch, kill_worker_after
):
    monkeypatch.setattr(module, "PART", 4)
    kill_worker_after(Store, "write")
    made = extract_on_workers(small, paths, 3, tmp_path, cluster)
    assert made.tobytes() == alone[0].tobytes() and content_of(tmp_path) == alone[1]
    monkeypatch.setattr(module, "spread", None)  # all is there, so no worker is started
    assert (extract_on_workers(small, paths, 3, tmp_path, workers=2) == made).all()


def test_what_goes_wrong_in_a_worker_is_said_here(small, paths, cluster, tmp_path, monkeypatch):
    (tmp_path / "cut.jpg").write_bytes(paths[0].read_bytes()[:3000])
    film = shutil.copy(paths[0], tmp_path / "film.jpg")
    with pytest.raises(ImageError, match=r"cut\.jpg: .*truncated"):
        extract_on_workers(small, [tmp_path / "cut.jpg"], 3, scheduler=cluster)
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        extract_on_workers(small, [tmp_path / "gone.jpg"], 3, scheduler=cluster)
    with pytest.raises(BackboneError, match="grid 10: at image_size 96"):
        extract_on_workers(small, paths[:1], 10, scheduler=cluster)
    monkeypatch.setattr(module, "THREADS", 1)
    with pytest.raises(ClusterError, match="a worker has other weights, other versions"):
        extract_on_workers(small, [film], 3, scheduler=cluster)

    def spread(there, tasks, *where):
        assert where == (None, 1)
        raise FileNotFoundError(2, "No such file", str(film))  # of another machine
        yield

    monkeypatch.setattr(module, "spread", spread)
    with pytest.raises(ClusterError, match=r"a worker does not find .*film\.jpg, which is there"):
        extract_on_workers(small, [film], 3, workers=1)


def test_without_a_cache_rows_come_in_order(small, paths, alone, monkeypatch):
    def spread(there, tasks, *where):
        yield from reversed([(label, there(films)) for label, films in tasks])

    monkeypatch.setattr(module, "spread", spread)
    assert np.array_equal(extract_on_workers(small, paths[:20], 3), alone[0][:20])
