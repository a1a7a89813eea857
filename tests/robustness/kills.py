"""Kill a process at a random moment of its work, give its command again, and compare the ends."""

import hashlib
import io
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

from cxrlib.data.download import git_hash

ROOT = Path(__file__).parents[2]
FILMS = sorted((ROOT / "medical" / "images").iterdir())[:140]  # three parts of a table
CXR = Path(sys.executable).with_name("cxr")
TOKEN = "CXR_CAMPAIGN"  # in the environment of every process of a command
LINGER, WAIT = 15, 600  # seconds for processes to end with their parent; for a command
RESUMED, LOST, ENDLESS = "resumed", "lost", "without end"
# The kinds of work, and those whose undisturbed end each one needs.
KINDS = {
    "downloading": [],
    "simulating": [],
    "caching": [],
    "training": ["caching"],
    "saving": ["training"],
    "scoring": ["training"],
    "scoring, 2 workers": ["training"],
    "exporting": ["training"],
}


class Fault(Exception):
    """What a kill must not leave; `kind` is LOST or ENDLESS."""

    def __init__(self, reason: str, kind: str = LOST):
        super().__init__(reason)
        self.kind = kind


class Attacks:
    """Kills in a folder; undisturbed ends are made there once, when they are first wanted."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed, self.usual = folder, seed, {}

    def attack(self, kind: str, number: int) -> tuple[str, str]:
        """Kill one process at its work; return RESUMED, LOST or ENDLESS, and why."""
        usual, moment = self.measure(kind), 0.0
        wanted = product(self.folder / kind / "work")
        place, moments = self.folder / f"{number:03}", random.Random(f"{self.seed} {number}")
        try:
            for attempt in range(8):
                # A process may be faster than the one that was measured, or be done and not gone.
                moment = moments.uniform(0, usual * 0.8**attempt)
                self._prepare(kind, place)
                killed = self._kill(kind, place, moment)
                if killed and (kind == "saving" or product(place / "work") != wanted):
                    break
            else:
                raise Fault("no process lived long enough to be killed")
            if kind == "saving":
                check_run(place / "work" / "run")
            self._finish(kind, place)
            compare(wanted, product(place / "work"))
        except Fault as fault:
            return fault.kind, f"killed {moment:.2f} s into {usual:.2f} s: {fault}, see {place}"
        shutil.rmtree(place)
        return RESUMED, ""

    def measure(self, kind: str) -> float:
        """Return the seconds from the begin of the work to its end, undisturbed."""
        if kind not in self.usual:
            for other in KINDS[kind]:
                self.measure(other)
            self._prepare(kind, self.folder / kind)
            try:
                begun = self._finish(kind, self.folder / kind)
            except Fault as fault:
                sys.exit(f"{kind} fails undisturbed: {fault}")
            self.usual[kind] = time.monotonic() - begun
        return self.usual[kind]

    def _prepare(self, kind: str, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        (place / "work").mkdir(parents=True)
        if kind == "saving":
            shutil.copytree(self.folder / "training" / "work" / "run", place / "work" / "run")

    def _command(self, kind: str, place: Path) -> list:
        work, run = place / "work", self.folder / "training" / "work" / "run"
        if kind.startswith("scoring"):
            workers = ["--workers", "2"] if "workers" in kind else []
            return [CXR, "score", run, *FILMS, "--out", work / "scores.csv", *workers]
        if kind == "exporting":
            return [CXR, "export", run, "--format", "keras", "--out", work / "export"]
        if kind == "simulating":
            return [CXR, "phantom", "--patients", "2", "--out", work / "study"]
        return [sys.executable, Path(__file__).with_name("tasks.py"), kind, work, self.folder]

    @contextmanager
    def _started(self, kind: str, place: Path) -> Iterator[tuple[subprocess.Popen, float]]:
        """Give a process and the moment its work began; afterwards none may be left."""
        token = secrets.token_hex(8)
        environment = os.environ | {TOKEN: token, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        (place / "begun").unlink(missing_ok=True)
        before = sorted((place / "work").iterdir())
        with open(place / "output", "a") as output:
            process = subprocess.Popen(
                self._command(kind, place), env=environment, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + WAIT
            # A task says when it begins; of a command the first file does.
            while process.poll() is None and time.monotonic() < deadline:
                if (place / "begun").exists() or sorted((place / "work").iterdir()) != before:
                    break
                time.sleep(0.005)
            yield process, time.monotonic()
        finally:
            process.kill()
            process.wait()
            end_strays(token)

    def _kill(self, kind: str, place: Path, moment: float) -> bool:
        """Kill a process at a moment of its work; return whether it was still at it."""
        with self._started(kind, place) as (process, begun):
            try:
                process.wait(max(0, begun + moment - time.monotonic()))
                return False
            except subprocess.TimeoutExpired:
                return True

    def _finish(self, kind: str, place: Path) -> float:
        """Let a command reach its end; return when its work began."""
        with self._started(kind, place) as (process, begun):
            try:
                if process.wait(WAIT):
                    said = (place / "output").read_text(errors="replace").strip().splitlines()
                    raise Fault(f"the command fails: {said[-1]}")
            except subprocess.TimeoutExpired:
                raise Fault("the command did not end", ENDLESS) from None
        return begun


def end_strays(token: str) -> None:
    """Wait for the processes of a command; end those that stay, by their ids, and raise."""
    deadline = time.monotonic() + LINGER
    while left := list(_alive(token)):
        if time.monotonic() > deadline:
            names = ", ".join(sorted({process.name() for process in left}))
            for process in left:
                process.kill()
            raise Fault(f"{len(left)} processes were left behind: {names}")
        time.sleep(0.05)


def _alive(token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.status() != "zombie":
                yield process
        except (psutil.Error, OSError):  # gone, or another account's
            pass


def product(folder: Path) -> dict[str, object]:
    """Return what lies in a folder by path; of models the weights, since the rest holds a time."""
    return {
        str(path.relative_to(folder)): _content(path) if path.is_file() else None
        for path in folder.rglob("*")
    }


def _content(path: Path) -> object:
    content = path.read_bytes()
    try:
        if path.suffix == ".keras":
            content = zipfile.ZipFile(path).read("model.weights.h5")
        elif path.name in ("run.json", "card.json"):
            facts = json.loads(content)
            return {key: facts[key] for key in facts if key not in ("made", "files")}
        elif path.name == "MODEL_CARD.md":
            content = b"\n".join(x for x in content.splitlines() if not x.startswith(b"- Made "))
    except (ValueError, zipfile.BadZipFile):
        pass  # not whole
    return hashlib.sha256(content).hexdigest()


def compare(wanted: dict, found: dict) -> None:
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            raise Fault(f"{path} is missing")
        if path not in wanted:
            raise Fault(f"{path} was left behind")
        if wanted[path] != found[path]:
            raise Fault(f"{path} is another than undisturbed")


def check_run(folder: Path) -> None:
    """Raise where no whole run is at its place; the next process loads it as well."""
    try:
        files = json.loads((folder / "run.json").read_text())["files"]
        for name, digest in files.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise Fault(f"{name} is of another run than run.json")
    except (OSError, ValueError) as error:
        raise Fault(f"no run is at its place: {error}") from None


@contextmanager
def serving(folder: Path, films: list[Path]) -> Iterator[None]:
    """Serve an archive of films over HTTP, slowly; `folder` gets its url and manifest."""
    files = {f"images/{film.name}": film.read_bytes() for film in films}
    files["labels.csv"] = b"filename,label\n" + b"".join(
        f"{film.name},No Finding\n".encode() for film in films
    )
    lines = [f"{git_hash(content)} {len(content)} {path}\n" for path, content in files.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for path, content in files.items():
            zipped.writestr(f"top/{path}", content)
    archive = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            step = len(archive) // 40 + 1
            try:
                for at in range(0, len(archive), step):
                    self.wfile.write(archive[at : at + step])
                    time.sleep(0.01)
            except OSError:
                pass  # it was killed

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        folder.mkdir(parents=True)
        (folder / "url").write_text(f"http://127.0.0.1:{server.server_port}/archive.zip")
        (folder / "manifest").write_text("".join(lines))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield
        server.shutdown()
