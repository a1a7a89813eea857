"""The site that `make book` builds, opened in a browser: links, pictures, hosts, search."""

import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

ROOT = Path(__file__).parents[2]
WIDGET = """\
import pandas as pd
from cxrlib import Explorer
films = {"target": [0, 1], "probability": [0.2, 0.9], "patient": ["a", "b"]}
Explorer(pd.DataFrame(films), 0.5)"""
READ = """() => ({
    ids: [...document.querySelectorAll('[id]')].map((node) => node.id),
    links: [...document.links].map((link) => link.href),
    pictures: document.images.length,
    broken: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src),
})"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def build(root, out):
    command = [sys.executable, root / "notebooks" / "book.py", "--out", out]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def serve():
    """A function that serves a folder on this machine and returns its address."""
    servers = []

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def project(tmp_path):
    """A project of a README and one empty notebook beside a copy of what builds the site."""
    folder = tmp_path / "project" / "notebooks"
    shutil.copytree(ROOT / "notebooks" / "site", folder / "site")
    for name in ("book.py", "execute.py"):
        shutil.copy(ROOT / "notebooks" / name, folder)
    (folder.parent / "README.md").write_text("# Films\n\n[One](notebooks/01_one.ipynb)")
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell(WIDGET)]
    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "01_one.ipynb")
    return folder.parent


def test_no_link_and_no_picture_is_broken_and_no_other_host_is_asked(chromium, serve, tmp_path):
    built = build(ROOT, tmp_path / "book")
    assert built.returncode == 0, built.stderr
    home = serve(tmp_path / "book")
    page, asked, wrong = chromium.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    seen, waiting, linked = {}, [home + "index.html"], set()
    while waiting:
        address = waiting.pop()
        assert page.goto(address).ok, address
        seen[address] = page.evaluate(READ)
        linked |= set(seen[address]["links"])
        inside = {urldefrag(link).url for link in seen[address]["links"] if link.startswith(home)}
        waiting += [
            link for link in inside if link.endswith(".html") and link not in {*seen, *waiting}
        ]
    sources = [*ROOT.glob("notebooks/0[1-9]_*.ipynb"), *ROOT.glob("docs/*.md")]
    places = {str(source.relative_to(ROOT).with_suffix(".html")) for source in sources}
    modules = {f"api/cxrlib{part}.html" for part in ("", "/model/head", "/audit/leakage")}
    found = {unquote(address.removeprefix(home)) for address in seen}
    assert found >= places | modules | {"index.html", "CONTRIBUTING.html"}
    assert [read["broken"] for read in seen.values() if read["broken"]] == []
    assert sum(read["pictures"] for read in seen.values()) > 20
    for link in linked:
        address, fragment = urldefrag(link)
        if fragment and address in seen:
            assert unquote(fragment) in seen[address]["ids"], link
        elif link.startswith(home):
            assert page.request.get(link).ok, link
    assert wrong == []
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {
        home.split("/")[2]
    }

    page.goto(home + "api/cxrlib.html")
    signature = page.locator("#fit_head .attr").inner_text()
    assert "features" in signature and "kind: str = 'linear'" in signature
    assert "Examples" in page.locator("#fit_head .docstring").inner_text()
    page.goto(home + "notebooks/02_train.html")
    assert page.get_by_role("link", name="fit_head").get_attribute("href").startswith("../api/")
    page.get_by_label("Search all pages").fill("score_films")
    assert page.locator("#found a", has_text="cxrlib: score_films").count() == 1
    page.get_by_label("Search all pages").fill("Cardiomegaly")
    hits = page.locator("#found a")
    assert hits.count() > 3
    hits.filter(has_text="3 Evaluate").first.click()
    page.wait_for_url(f"{home}notebooks/03_evaluate.html**")
    page.get_by_label("Search all pages").fill("qqxzzy")
    assert hits.count() == 0 and "0 of" in page.locator("#found").inner_text()
    page.locator("header [rel=next]").click()
    page.wait_for_url(f"{home}notebooks/04_infer.html")
    page.close()


def test_the_page_of_the_api_names_the_whole_facade():
    links = dict(re.findall(r"\[`(\w+)`\]\(../(.+?)\)", (ROOT / "docs" / "api.md").read_text()))
    stub = (ROOT / "cxrlib" / "__init__.pyi").read_text()
    for place, name in re.findall(r"^from \.(\S+) import (\w+)", stub, re.M):
        assert links[name] == f"cxrlib/{place.replace('.', '/')}.py"


def test_a_widget_is_its_still_figure(chromium, serve, project):
    source = project / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(source, as_version=4)
    ExecutePreprocessor(kernel_name="python3").preprocess(notebook)
    (output,) = notebook.cells[1].outputs
    assert "application/vnd.jupyter.widget-view+json" in output.data
    nbformat.write(notebook, source)
    built = build(project, project / "book")
    assert built.returncode == 0, built.stderr
    page = chromium.new_page()
    page.goto(serve(project / "book") + "notebooks/01_one.html")
    picture = page.locator(".jp-OutputArea img")
    assert picture.evaluate("image => image.naturalWidth") > 500
    assert "jupyter.widget" not in page.content()
    page.close()


def test_links_to_nothing_are_listed_and_the_old_site_stays(project):
    old = project / "book" / "index.html"
    old.parent.mkdir()
    old.write_text("old")
    (project / "in.txt").write_text("inside the project")
    (project.parent / "out.txt").write_text("outside")
    wrong = ["../02_two.ipynb", "film.png", "../../out.txt", "https://example.org/film.png"]
    source = project / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[0].source += "\n\n[In](../in.txt)" + "".join(f" ![x]({at})" for at in wrong)
    nbformat.write(notebook, source)
    built = build(project, old.parent)
    assert built.returncode != 0
    for line, address in zip(built.stderr.splitlines(), wrong, strict=True):
        assert line.startswith("notebooks/01_one.ipynb: ") and address in line
    assert old.read_text() == "old"
