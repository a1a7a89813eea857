"""A JupyterLab and a headless Chromium of their own, for tests and benchmarks of the widgets."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@contextmanager
def open_chromium() -> Iterator:
    """Yield a browser, or None where none is installed."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if not path:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serve_lab(folder: Path, notebooks: dict[str, list[str]]) -> Iterator[Callable[[str], str]]:
    """Serve notebooks (name: sources of cells); yield what makes an address, token included."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, cells in notebooks.items():
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, folder / name)
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}"]
    command += ["--LabApp.news_url=", f"--ServerApp.root_dir={folder}"]
    # Settings of its own: what is answered here must not change the user's JupyterLab.
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise TimeoutError((folder / "server.log").read_text())
        yield lambda path: f"http://127.0.0.1:{port}/{path}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def open_notebook(page, address: str) -> None:
    """Open a notebook in JupyterLab and wait for its kernel: cells run before it are lost."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=300_000)
    page.get_by_text("| Idle").wait_for(timeout=300_000)
    page.get_by_role("button", name="No", exact=True).click()  # to Jupyter's news


def run_all(page) -> None:
    """Run all cells, again where they were lost, until the first has run: it may take minutes."""
    first, end = page.locator(".jp-Notebook .jp-InputPrompt").first, time.monotonic() + 300
    while not re.search(r"\d", prompt := first.inner_text()):
        assert time.monotonic() < end, "no cell was run"
        if "*" not in prompt:  # a kernel that is not quite there takes nothing
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(2_000)
