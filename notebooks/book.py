"""Render the README and the committed, executed notebooks as a static site, as `make book` does.

The site mirrors the repository: README.md becomes index.html, a notebook an HTML page in its place,
and each file that they link to is copied. Pages load nothing from other hosts, and also open
straight from the disk. Links to what is not there are listed, and an older site stays as it was.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from traitlets.config import Config

from execute import NOTEBOOKS, stilled

ROOT = NOTEBOOKS.parent
SITE = NOTEBOOKS / "site"
HEADINGS = ["h1", "h2", "h3"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book", help="%(default)s")
    out = parser.parse_args().out.absolute()
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(SITE, part, ignore=shutil.ignore_patterns("*.j2"))

    sources = {source: read(source) for source in [ROOT / "README.md", *notebooks()]}
    pages = {source: page_of(source) for source in sources}
    sections, broken = [], []
    for source, notebook in sources.items():
        soup = render(notebook, around(source, sources, pages))
        files, wrong = relink(soup, source, pages)
        broken += wrong
        for file in files:
            copy = part / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        sections += sections_of(soup, pages[source])
        page = part / pages[source]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(str(soup), encoding="utf-8")
    if broken:
        sys.exit("\n".join(broken))
    index = f"const SECTIONS = {json.dumps(sections, ensure_ascii=False, indent=0)};\n"
    (part / "sections.js").write_text(index, encoding="utf-8")

    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    print(f"{len(pages)} pages, {len(sections)} sections: open {os.path.relpath(out)}/index.html")


def notebooks():
    return sorted(NOTEBOOKS.glob("0[1-9]_*.ipynb"))


def read(source):
    if source.suffix == ".ipynb":
        return stilled(nbformat.read(source, as_version=4))
    text = source.read_text(encoding="utf-8")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def page_of(source):
    """Return the place of a source's page in the site."""
    name = "index.html" if source.name == "README.md" else f"{source.stem}.html"
    return source.relative_to(ROOT).with_name(name)


def address(page, other):
    """Return what a page calls another one in a link."""
    return quote(Path(os.path.relpath(other, page.parent)).as_posix())


def around(source, sources, pages):
    """Return what the template says besides the cells: titles, neighbours, the way to the root."""
    titles = {each: title(notebook) for each, notebook in sources.items()}
    order, page = list(sources), pages[source]
    at = order.index(source)
    site = {"title": titles[source], "root": "../" * (len(page.parts) - 1)}
    for name, neighbour in [("previous", order[:at][-1:]), ("next", order[at + 1 :][:1])]:
        for each in neighbour:
            site[name] = {"title": titles[each], "address": address(page, pages[each])}
    return site


def title(notebook):
    return notebook.cells[0].source.partition("\n")[0].lstrip("# ")


def render(notebook, site):
    exporter = HTMLExporter(
        extra_template_paths=[str(SITE)],
        template_file="page.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        # Plain colours: those of the standard style are variables that JupyterLab would set.
        config=Config({"CSSHTMLHeaderPreprocessor": {"style": "default"}}),
    )
    page, _ = exporter.from_notebook_node(notebook, resources={"site": site})
    soup = BeautifulSoup(page, "html.parser")
    for mark in soup.find_all("a", class_="anchor-link"):
        mark.decompose()
    return soup


def relink(soup, source, pages):
    """Point links between sources to their pages; return the other files, and what is wrong."""
    files, wrong, name_of = [], [], source.relative_to(ROOT)
    for node in soup.main.find_all(["a", "img"]):
        name = "src" if node.name == "img" else "href"
        link = urlsplit(node.get(name, ""))
        if link.netloc and name == "src":
            wrong.append(f"{name_of}: the picture {node[name]} is on another host; bring it here")
        if link.scheme or link.netloc or not link.path:
            continue
        target = (source.parent / unquote(link.path)).resolve()
        if target in pages:
            page = address(pages[source], pages[target])
            node[name] = link._replace(path=page).geturl()
        elif target.is_file() and target.is_relative_to(ROOT):
            files.append(target)
        else:
            wrong.append(f"{name_of}: it links to {link.path}, which is no file of the project")
    return files, wrong


def sections_of(soup, page):
    """Return the text under each heading, as the search wants it."""
    sections, last = [], None
    for text in soup.main.find_all(string=True):
        heading = text.find_parent(HEADINGS)
        if heading and heading is not last:
            last, words = heading, " ".join(heading.get_text().split())
            where = f"{page.as_posix()}#{quote(heading['id'])}"
            sections.append({"address": where, "page": "", "title": words, "text": ""})
        elif sections and not heading and text.parent.name not in ("style", "script"):
            sections[-1]["text"] += text
    for section in sections:
        section |= {"page": sections[0]["title"], "text": " ".join(section["text"].split())}
    return sections


if __name__ == "__main__":
    main()
