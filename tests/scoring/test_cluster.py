"""Parts on several processes: all rows once, bits as of one process, also when a worker dies."""

import os
import shutil
import socket
import ssl
import sys
from dataclasses import replace
from importlib import import_module
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from cxrlib import cli
from cxrlib.scoring import write as score
from cxrlib.scoring.cluster import ClusterError, _connect, spread
from cxrlib.scoring.parts import Parts
from cxrlib.scoring.tables import read_scores
from cxrlib.scoring.write import write_scores

FILMS = 30


@pytest.fixture(scope="module")
def run(small_run):
    return small_run


@pytest.fixture(scope="module")
def films(trained_run, tmp_path_factory):
    """A folder of films, one of them broken."""
    folder = tmp_path_factory.mktemp("films")
    for n, path in enumerate(trained_run[1].films["path"][:FILMS]):
        (folder / f"{n:03}.jpg").symlink_to(os.path.abspath(path))
    (folder / "007.jpg").unlink()
    (folder / "007.jpg").write_text("this is no picture")
    return folder


@pytest.fixture(scope="module")
def serial(run, films, tmp_path_factory):
    """The table that one process writes, in parts of another size."""
    out = tmp_path_factory.mktemp("serial") / "scores.csv"
    write_scores(run, [films], out, part=16)
    return out


@pytest.mark.portable
def test_a_killed_worker_loses_nothing_and_changes_no_bit(
    run, films, serial, tmp_path, kill_worker_after
):
    out = tmp_path / "scores.csv"
    kill_worker_after(Parts, "write")
    counts = write_scores(run, [films], out, workers=2, part=5)
    assert out.read_bytes() == serial.read_bytes()
    rows = read_scores(out)
    assert rows["path"].tolist() == [str(path) for path in sorted(films.iterdir())]
    assert counts == {"ok": FILMS - 1, "unreadable": 1}


def test_workers_of_this_call_take_orders_from_nobody_else():
    # As anyone on this machine can: TLS, without the certificate of this call.
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with _connect(None, 1) as client:
        host, port = client.scheduler.address.removeprefix("tls://").split(":")
        with pytest.raises(ssl.SSLError, match="certificate required"):
            with stranger.wrap_socket(socket.create_connection((host, int(port)))) as connection:
                connection.recv(1)
        pages = client.cluster.scheduler.http_server
        for page in ("info/main/workers.html", "json/identity.json", "metrics"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://{pages.address}:{pages.port}/{page}")


def test_a_cluster_of_this_process_brings_its_credentials():
    from distributed import LocalCluster

    one = {"n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(**one, dashboard_address=None, security=True) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        done = spread(abs, [("one", -1), ("two", -2)], scheduler=cluster)
        assert dict(done) == {"one": 1, "two": 2}


def test_a_scheduler_gets_the_same_parts(trained_run, run, films, serial, tmp_path, monkeypatch):
    from distributed import LocalCluster

    out, home = tmp_path / "scores.csv", tmp_path / "run"
    shutil.copytree(trained_run[0], home)
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        # Names are the same as here, though workers are elsewhere: paths are sent whole.
        monkeypatch.chdir(films.parent)
        given = ["--scheduler", cluster.scheduler_address, "--out", str(out)]
        cli.main(["score", str(home), films.name, *given])
        assert out.read_text() == serial.read_text().replace(f"{films.parent}/", "")

        threshold = run.facts["threshold"] | {"value": 0.9}
        other = replace(run, folder=home, facts=run.facts | {"threshold": threshold})
        with pytest.raises(ClusterError, match="a worker has another run at .*: give it the same"):
            write_scores(other, [films], tmp_path / "other.csv", scheduler=given[1])


def test_a_film_that_a_worker_does_not_find_is_an_error(films):
    row = (f"{films}/001.jpg", "unreadable", None, "", score.MISSING)
    with pytest.raises(ClusterError, match=r"a worker does not find .*001.jpg, which is there"):
        score._own_row(f"{films}/001.jpg", row)
    gone = score._own_row(f"{films}/gone.jpg", row)
    assert gone == (f"{films}/gone.jpg", *row[1:])


def test_a_task_that_kills_every_worker_is_given_up():
    with pytest.raises(ClusterError, match="4 workers died of the same task, the last at tls:"):
        list(spread(os._exit, [("a", 1)], workers=1))


def test_a_worker_without_the_package_is_named():
    with pytest.raises(ClusterError, match="cannot run what they are sent: No module named 'cxrl"):
        list(spread(import_module, [("a", "cxrlib_is_not_here")], workers=1))


def test_what_no_cluster_can_do_is_said_in_a_sentence(run, films, tmp_path, monkeypatch):
    from distributed import LocalCluster

    from cxrlib.scoring import cluster as module

    out = tmp_path / "scores.csv"
    with pytest.raises(ClusterError, match="workers is 0: give 1 or more"):
        write_scores(run, [films], out, workers=0)
    with pytest.raises(ClusterError, match="workers is 1000000: give 1 or more, and at most"):
        write_scores(run, [films], out, workers=1_000_000)
    with pytest.raises(ValueError, match="part is 0: give 1 or more"):
        write_scores(run, [films], out, part=0)
    for address in ("", "host", "8786", "http://127.0.0.1:8786"):
        with pytest.raises(ClusterError, match=f"scheduler '{address}': give an address such as"):
            write_scores(run, [films], out, scheduler=address)
    monkeypatch.setattr(module, "WAIT", 1)
    with pytest.raises(ClusterError, match="no dask scheduler answers at tcp://127.0.0.1:1: "):
        write_scores(run, [films], out, scheduler="tcp://127.0.0.1:1")
    with LocalCluster(n_workers=0, dashboard_address=None) as empty:
        address = empty.scheduler_address
        with pytest.raises(ClusterError, match=f"{address} has no worker: start one with `dask w"):
            write_scores(run, [films], out, scheduler=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install '\.\[cluster\]' in a clone"):
        write_scores(run, [films], out, workers=2)
    assert not list(tmp_path.iterdir())
