"""The site that `make book` builds, opened in a browser: links, pictures, hosts, search, access."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
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


AXE = "axe-core-4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
# Of a dark screen only what colours decide is asked again; what is in order is not listed.
AUDIT = """async (rules) => (await axe.run(document, {
    resultTypes: ["violations"], ...(rules ? {runOnly: rules} : {})})).violations
    .filter(({impact}) => ["serious", "critical"].includes(impact))
    .map(({id, nodes}) => `${id}: ${nodes[0].target} (${nodes.length})`)"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def build(root, out):
    command = [sys.executable, root / "notebooks" / "book.py", "--out", out]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core, from npm at the first call; without a network its test is skipped."""
    folder = ROOT / "build" / "axe"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{AXE}.tgz"
    if not archive.exists():
        if not shutil.which("npm"):
            pytest.skip("axe-core comes from npm, which is not on this machine")
        command = ["npm", "pack", "--silent", AXE.replace("core-", "core@")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"npm cannot fetch {AXE}: {done.stderr[:200]}")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == AXE_SHA256, f"delete {archive}"
    with tarfile.open(archive) as files:
        return files.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "book"
    built = build(ROOT, out)
    assert built.returncode == 0, built.stderr
    return out


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


def test_every_page_is_for_everyone_and_for_a_phone(axe, chromium, serve, book):
    home, wrong = serve(book), {}
    page = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme="light")
    names = [file.relative_to(book).as_posix() for file in sorted(book.rglob("*.html"))]
    api = [name for name in names if name.startswith("api/")]  # all alike
    for name in [*(name for name in names if name not in api), *api[::10], "api/cxrlib.html"]:
        page.goto(home + name)
        page.evaluate(axe)
        found = page.evaluate(AUDIT, None)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(AUDIT, ["color-contrast", "link-in-text-block"])
        page.emulate_media(color_scheme="light")
        wide = page.evaluate("document.documentElement.scrollWidth")
        found += [f"dark, {each}" for each in dark] + [f"{wide} px wide"] * (wide > 390)
        wrong |= {name: found} if found else {}
    assert wrong == {}
    page.close()


def test_the_gallery_draws_each_plot_of_the_facade(chromium, serve, book):
    stub = (ROOT / "cxrlib" / "__init__.pyi").read_text()
    plots = re.findall(r"^from \.plots\S* import (\w+)", stub, re.M)
    page = chromium.new_page(color_scheme="dark")
    page.goto(serve(book) + "docs/gallery.html")
    assert page.locator("#contents a").all_inner_texts() == plots and len(plots) > 10
    pictures = page.locator(".jp-OutputArea img")
    widths = pictures.evaluate_all("all => all.map((image) => [image.naturalWidth, image.width])")
    assert len(widths) == len(plots)
    assert all(wide > 1.9 * shown > 500 for wide, shown in widths)  # twice the resolution
    texts = pictures.evaluate_all("all => all.map((image) => image.alt)")
    assert len(set(texts)) == len(plots) and all(len(text) > 20 for text in texts)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert sum(map(int, re.findall(r"\d+", page.evaluate(ground)))) < 150
    page.close()


def test_no_link_and_no_picture_is_broken_and_no_other_host_is_asked(chromium, serve, book):
    home = serve(book)
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
    sources = [*ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"), *ROOT.glob("docs/*.md")]
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
    texts = page.locator(".jp-OutputArea img").evaluate_all("all => all.map((image) => image.alt)")
    assert len(texts) >= 3 and texts[0].startswith("A flat curve says")
    page.get_by_text("What is saved?").first.click()
    page.wait_for_url("**#what-is-saved")
    assert page.get_by_role("link", name="fit_head").get_attribute("href").startswith("../api/")
    page.get_by_label("Search all pages").fill("score_films")
    assert page.locator("#found a", has_text="cxrlib: score_films").count() == 1
    page.get_by_label("Search all pages").fill("Cardiomegaly")
    hits = page.locator("#found a")
    assert hits.count() > 3
    page.get_by_label("Search all pages").fill("thresh")
    marks = set(page.locator("#found mark").all_inner_texts())
    assert {text.lower() for text in marks} == {"threshold", "thresholds"}
    page.get_by_label("Search all pages").fill("hreshold")
    assert page.locator("#found mark").count() == 0
    page.get_by_label("Search all pages").fill("Cardiomegaly")
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
