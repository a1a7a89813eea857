"""The NIH sample's download, against a real HTTP server on 127.0.0.1 that also misbehaves."""

import hashlib
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cxrlib.data import download
from cxrlib.data.download import (
    NIH_SAMPLE_MANIFEST,
    NIH_SAMPLE_URL,
    DownloadError,
    download_nih_sample,
    git_hash,
    read_manifest,
)

PROJECT = Path(__file__).parents[2]
TOP = "medical-ai-0123abc/"
RANDOM = random.Random(0)
FILES = {f"images/0000000{i}_000.jpg": RANDOM.randbytes(3000 + i) for i in range(1, 7)}
FILES["labels.csv"] = b"filename,label\n00000001_000.jpg,No Finding\n"
THIRD = "images/00000003_000.jpg"


def zip_of(files, top=TOP, extra=()):
    """Return the bytes of a zip with these files below its top folder, as GitHub makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path, content in files.items():
            zipped.writestr(top + path, content)
        for name, content in extra:
            zipped.writestr(name, content)
    return buffer.getvalue()


GOOD = zip_of(FILES)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def send(body=GOOD, status=200, content_type="application/zip"):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def send_chunked(body=GOOD, whole=True):
    """Send as GitHub does: no length beforehand, and an end mark only where all was sent."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if whole else b""))
        handler.close_connection = True

    return answer


def cut_off(announced):
    """Send half of the archive, its full length announced or not, and close the connection."""

    def answer(handler):
        handler.send_response(200)
        if announced:
            handler.send_header("Content-Length", str(len(GOOD)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(GOOD[: len(GOOD) // 2])

    return answer


def redirect_to(place):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server():
    """Serve ``server.answers`` one after another, the last for ever; count in ``requests``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.requests += 1
            answers = self.server.answers
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answers = [send()]
        running.requests = 0
        running.url = f"http://127.0.0.1:{running.server_port}/archive.zip"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "made-up.manifest"
    lines = ["# a comment"]
    for name, content in FILES.items():
        sha1 = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        lines.append(f"{sha1} {len(content)} {name}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Record the waits between attempts instead of waiting; keep 127.0.0.1 off any proxy."""
    seconds = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", seconds.append)
    return seconds


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("answer", [send(), send_chunked()], ids=["with length", "chunked"])
def test_everything_arrives_and_a_second_call_fetches_nothing(server, manifest, tmp_path, answer):
    server.answers = [redirect_to("/codeload.zip"), answer]
    folder = tmp_path / "medical" / "nih-sample"
    assert download_nih_sample(folder, server.url, manifest) == folder
    assert contents(folder) == FILES
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels.csv"]
    (folder / ".download").mkdir()  # as a call leaves it that is killed at its very end
    download_nih_sample(folder, server.url, manifest)
    assert contents(folder).keys() == FILES.keys() and not (folder / ".download").exists()
    assert server.requests == 2  # the redirect and the archive, both of the first call


def test_only_what_is_missing_or_altered_is_written(server, manifest, tmp_path):
    download_nih_sample(tmp_path / "s", server.url, manifest)
    kept = {path: (tmp_path / "s" / path).stat().st_ino for path in FILES if path > THIRD}
    (tmp_path / "s/images/00000001_000.jpg").unlink()
    (tmp_path / "s" / THIRD).write_bytes(FILES[THIRD][::-1])  # right in size only
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES
    assert kept == {path: (tmp_path / "s" / path).stat().st_ino for path in kept}


@pytest.mark.parametrize(
    "bad",
    [
        cut_off(announced=True),
        cut_off(announced=False),
        send_chunked(GOOD[:5000], whole=False),
        send(b"<!DOCTYPE html><title>Sign in</title>", content_type="text/html"),
        send(b"", status=404),
        send(b"", status=503),
    ],
    ids=["cut off", "cut off, no length", "cut off, chunked", "HTML page", "404", "503"],
)
def test_a_passing_failure_is_tried_again(server, manifest, tmp_path, waits, bad):
    server.answers = [bad, bad, send()]
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES
    assert server.requests == 3
    assert waits == [1, 2]


@pytest.mark.parametrize(
    "bad, message",
    [
        (cut_off(announced=True), "IncompleteRead"),
        (cut_off(announced=False), "not a zip archive, or is cut off"),
        (send_chunked(GOOD[:5000], whole=False), "Response ended prematurely"),
        (send(b"<!DOCTYPE html>Sign in"), "begins with b'<!DOCTYPE html>Sign in'"),
        (send(b"", status=404), "404 Client Error: Not Found"),
        (send(b"", status=503), "503 Server Error"),
        (redirect_to("http://[::bad/"), "Invalid IPv6 URL"),
    ],
    ids=["cut off", "no length", "cut off, chunked", "HTML page", "404", "503", "no address"],
)
def test_a_lasting_failure_is_a_clear_error(server, manifest, tmp_path, bad, message):
    server.answers = [bad]
    with pytest.raises(DownloadError, match=re.escape(message)) as caught:
        download_nih_sample(tmp_path / "s", server.url, manifest)
    assert server.url in str(caught.value) and "HTTPS_PROXY" in str(caught.value)
    assert server.requests == 4
    assert contents(tmp_path / "s") == {}


@pytest.mark.parametrize("length", ["abc", "-1", "1.5", "\u00b2"])
def test_a_length_that_is_no_number_is_passed_over(server, manifest, tmp_path, length):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(GOOD)

    server.answers = [answer]
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES


@pytest.mark.parametrize(
    ("pause", "message"), [(0, "far more than"), (0.02, "not done in 5e-05 h")]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_an_endless_or_trickling_answer_is_left(
    server, manifest, tmp_path, monkeypatch, pause, message, chunked
):
    def answer(handler):
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        part = b"x" if pause else bytes(2**16)
        with suppress(OSError):  # whoever asked has gone
            while True:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                time.sleep(pause)

    # time.sleep of this module is the one that `waits` replaces
    monkeypatch.setattr("pooch.core.time.sleep", threading.Event().wait)
    monkeypatch.setattr(download, "HOURS", 5e-5 if pause else 1)
    server.answers = [answer]
    with pytest.raises(DownloadError, match=message):
        download_nih_sample(tmp_path / "s", server.url, manifest)
    assert server.requests == 1
    assert contents(tmp_path / "s") == {}


def test_nothing_is_fetched_any_more_after_an_end(server, manifest, tmp_path, monkeypatch):
    gone = threading.Event()

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while not gone.wait(0.5):  # too slow to send more than the sample within the 5 s below
                handler.wfile.write(bytes(2**16))
        except OSError:  # whoever asked has gone
            gone.set()

    monkeypatch.setattr(download, "HOURS", 5e-5)
    server.answers = [answer]
    with pytest.raises(DownloadError, match="not done in 5e-05 h"):
        download_nih_sample(tmp_path / "s", server.url, manifest)
    assert gone.wait(5)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", b"", CHUNKED + b"1;"])
def test_headers_that_trickle_are_left(server, manifest, tmp_path, monkeypatch, start):
    left = threading.Event()

    def answer(handler):
        handler.wfile.write(start)
        with suppress(OSError):
            while not left.wait(0.02):
                handler.wfile.write(b"x" if start else b"HTTP/1.1 100 Continue\r\n\r\n")

    monkeypatch.setattr(download, "HOURS", 5e-5)
    server.answers = [answer]
    with pytest.raises(DownloadError, match="not done in 5e-05 h"):
        download_nih_sample(tmp_path / "s", server.url, manifest)
    left.set()
    assert contents(tmp_path / "s") == {}


def test_no_network(manifest, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers there
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/archive.zip"
        with pytest.raises(DownloadError, match=r"Connection refused.*Check the network"):
            download_nih_sample(tmp_path / "s", url, manifest)


LINK = zipfile.ZipInfo(TOP + THIRD)
LINK.create_system, LINK.external_attr = 3, 0o120777 << 16
WITHOUT_THIRD = {path: content for path, content in FILES.items() if path != THIRD}


@pytest.mark.parametrize(
    "archive, found",
    [
        (zip_of(FILES | {THIRD: FILES[THIRD][::-1]}), git_hash(FILES[THIRD][::-1])),
        (zip_of(FILES | {THIRD: FILES[THIRD] + b"x"}), "another size"),
        (zip_of(FILES | {THIRD: bytes(50_000_000)}), "another size"),
        (zip_of(FILES | {THIRD: b""}), "another size"),
        (zip_of(WITHOUT_THIRD), "no such file"),
        (zip_of(WITHOUT_THIRD, extra=[(LINK, "../../../secret")]), "another size"),
        (GOOD.replace(FILES[THIRD][1000:1010], bytes(10)), "Bad CRC-32"),
    ],
    ids=["wrong content", "longer", "bomb", "empty", "missing", "link", "damaged"],
)
def test_a_wrong_file_is_named_and_refused_and_the_others_kept(
    server, manifest, tmp_path, archive, found
):
    server.answers = [send(archive), send()]
    with pytest.raises(DownloadError, match=f"1 of 7 files .*{THIRD}: .*found {found}") as caught:
        download_nih_sample(tmp_path / "s", server.url, manifest)
    assert git_hash(FILES[THIRD]) in str(caught.value)
    assert contents(tmp_path / "s") == WITHOUT_THIRD
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES


def test_nothing_outside_the_manifest_is_written(server, manifest, tmp_path):
    link = zipfile.ZipInfo(TOP + "images/link.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    names = ["../evil", TOP + "../../evil", str(tmp_path / "evil"), "C:\\evil", TOP + "README.md"]
    evil = [(name, b"evil") for name in names] + [(link, "/etc/passwd")]
    server.answers = [send(zip_of(FILES, extra=evil))]
    download_nih_sample(tmp_path / "here" / "s", server.url, manifest)
    assert contents(tmp_path / "here") == {f"s/{path}": FILES[path] for path in FILES}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", manifest.name]


def save_by_hand(folder, archive):
    (folder / ".download").mkdir(parents=True)
    (folder / ".download" / "archive.zip").write_bytes(archive)


def test_an_archive_saved_by_hand_is_used(server, manifest, tmp_path):
    save_by_hand(tmp_path / "s", GOOD)
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES
    assert server.requests == 0


DIRECTORY = GOOD.index(b"PK\x01\x02")  # the list of members at the end
DAMAGED = {
    "cut": GOOD[: len(GOOD) // 2],
    "version": GOOD[: DIRECTORY + 6] + b"\xff" + GOOD[DIRECTORY + 7 :],
    "offset": GOOD[:-6] + b"\xff\xff\xff\x7f" + GOOD[-2:],
}


@pytest.mark.parametrize("archive", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_is_thrown_away(server, manifest, tmp_path, archive):
    save_by_hand(tmp_path / "s", archive)
    with pytest.raises(DownloadError, match=r"archive.* was deleted; call again"):
        download_nih_sample(tmp_path / "s", server.url, manifest)
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES


def test_a_folder_that_cannot_be_written(server, manifest, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"Not a directory.*choose a folder"):
        download_nih_sample(tmp_path / "file" / "s", server.url, manifest)


def start(tmp_path, server, before=""):
    """Start a real Python process that downloads into ``tmp_path / "s"``."""
    call = "from cxrlib.data.download import download_nih_sample as get"
    manifest = tmp_path / "made-up.manifest"
    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{call}\nget({str(tmp_path / 's')!r}, {server.url!r}, "
         f"{str(manifest)!r})"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("step", ["download", "unpacking"])
def test_a_disk_that_takes_no_more(server, manifest, tmp_path, step):
    pytest.importorskip("resource", reason="the limit on a file's size is POSIX")
    if step == "unpacking":
        save_by_hand(tmp_path / "s", GOOD)
    before = contents(tmp_path / "s")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    _, errors = start(tmp_path, server, before=limited).communicate(timeout=300)
    assert re.search(r"DownloadError: .*File too large.*Make room on the disk", errors)
    (tmp_path / "s" / ".download" / "part").unlink(missing_ok=True)
    assert contents(tmp_path / "s") == before
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES
    assert server.requests == (2 if step == "download" else 0)


def test_killed_while_downloading(server, manifest, tmp_path):
    sent, killed = threading.Event(), threading.Event()

    def half_then_wait(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(GOOD)))
        handler.end_headers()
        handler.wfile.write(GOOD[: len(GOOD) // 2])
        sent.set()
        killed.wait(60)

    server.answers = [half_then_wait, *[send(b"", status=503)] * 4, send()]
    process = start(tmp_path, server)
    assert sent.wait(300)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed.set()
    left = contents(tmp_path / "s")
    assert [Path(name).parent.name for name in left] == [".download"]  # nothing taken as good
    with pytest.raises(DownloadError, match="503"):
        download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == {}  # what the killed call left is gone
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES


def test_killed_while_unpacking(server, manifest, tmp_path):
    # The process stops for good with the fourth file written but not yet in its place.
    stop = """
import os, time
replace, calls = os.replace, []
def stopping(source, target):
    calls.append(target)
    if len(calls) == 4:
        print("stopped", flush=True)
        time.sleep(600)
    replace(source, target)
os.replace = stopping
"""
    process = start(tmp_path, server, before=stop)
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {path: (tmp_path / "s" / path).stat().st_ino for path in list(FILES)[:3]}
    assert set(contents(tmp_path / "s")) - set(left) == {".download/archive.zip", ".download/part"}
    download_nih_sample(tmp_path / "s", server.url, manifest)
    assert contents(tmp_path / "s") == FILES
    assert left == {path: (tmp_path / "s" / path).stat().st_ino for path in left}
    assert server.requests == 1  # the archive was whole, so it was not fetched again


@pytest.mark.parametrize(
    "path",
    [
        "../images/a.jpg",
        "/images/a.jpg",
        "images/../evil",
        "images/..",
        "../labels.csv",
        "/labels.csv",
        "images/a/b",
        "evil",
    ],
)
def test_a_manifest_cannot_name_a_path_outside(tmp_path, path):
    (tmp_path / "m").write_text(f"# comment\n{'0' * 40} 12 {path}\n")
    with pytest.raises(ValueError, match=r"m, line 2: .*Restore the manifest"):
        read_manifest(tmp_path / "m")


def test_git_hash_is_gits():
    assert git_hash(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_committed_manifest_is_the_samples():
    files = read_manifest()
    assert len(files) == 1861
    assert sum(size for _, size in files.values()) == 248_204_179
    assert [path for path in files if not re.fullmatch(r"images/\d{8}_\d{3}\.jpg", path)] == [
        "labels.csv"
    ]
    commit = re.search(r"/archive/([0-9a-f]{40})\.zip$", NIH_SAMPLE_URL)[1]
    assert f"adleberg/medical-ai at {commit}" in NIH_SAMPLE_MANIFEST.read_text().splitlines()[0]


@pytest.mark.real
def test_real_films_match_the_committed_manifest():
    if "CXR_DATA" not in os.environ:
        pytest.skip("CXR_DATA does not point to real radiographs")
    study, files = Path(os.environ["CXR_DATA"]), read_manifest()
    films = [path for path in files if path != "labels.csv" and (study / path).is_file()]
    if not films:
        pytest.skip(f"CXR_DATA ({study}) holds no film of the NIH sample")
    wrong = [path for path in films if git_hash((study / path).read_bytes()) != files[path][0]]
    assert wrong == []
