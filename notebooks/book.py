"""Render README, notebooks, docs and docstrings as a static site, as `make book` does.

The site mirrors the repository: README.md becomes index.html, a notebook or a page of docs/ an HTML
page in its place, a module a page of the API under api/, and each file that they link to is copied.
A link to a module's file leads to its page of the API. docs/gallery.md gets the figure of every
plot function, drawn by the example in its docstring. Pages load nothing from other hosts, and also
open straight from the disk. Links to what is not there are listed, and an older site stays as it
was.
"""

import argparse
import base64
import doctest
import importlib
import io
import json
import os
import re
import shutil
import sys
from contextlib import chdir
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import nbformat
import pdoc
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from execute import NOTEBOOKS, describe_figures, stilled

ROOT = NOTEBOOKS.parent
SITE = NOTEBOOKS / "site"
HEADINGS = ["h1", "h2", "h3"]
GALLERY = ROOT / "docs" / "gallery.md"
PLOT = re.compile(r"^from \.(plots\S*) import (\w+)", re.M)
CODE = {"light": "default", "dark": "github-dark"}  # styles of Pygments
# Of pdoc's styles, those of content; colours and the frame are ours.
STYLES = "/*! content"
pdoc.render.configure(docformat="numpy", search=False, show_source=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book", help="%(default)s")
    out = parser.parse_args().out.absolute()
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(SITE, part, ignore=shutil.ignore_patterns("*.j2"))

    sources = [ROOT / "README.md", *sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")), *documents()]
    modules = api_modules()
    pages = {source: page_of(source) for source in [*sources, *modules]}
    titles = {source: title(read(source)) for source in sources}
    titles |= {source: module.modulename for source, module in modules.items()}
    sections, broken = [], []
    for source in pages:
        site = around(source, pages, titles)
        if source in modules:
            soup = render_module(modules[source], modules, site)
            sections += sections_of_module(soup, pages[source])
        else:
            soup = render(read(source), site)
            describe_figures(soup)
            sections += sections_of(soup, pages[source])
            files, wrong = relink(soup, source, pages)
            broken += wrong
            for file in files:
                copy = part / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        furnish(soup, source in modules)
        page = part / pages[source]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(str(soup), encoding="utf-8")
    if broken:
        sys.exit("\n".join(broken))
    index = f"const SECTIONS = {json.dumps(sections, ensure_ascii=False, indent=0)};\n"
    (part / "sections.js").write_text(index, encoding="utf-8")
    (part / "code.css").write_text(code_colours(), encoding="utf-8")

    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    print(f"{len(pages)} pages, {len(sections)} sections: open {os.path.relpath(out)}/index.html")


def documents():
    """Return the pages of docs/, its index first, and the other Markdown files of the root."""
    pages = sorted((ROOT / "docs").glob("*.md"), key=lambda path: (path.stem != "index", path))
    return pages + [path for path in sorted(ROOT.glob("*.md")) if path.stem != "README"]


def api_modules():
    """Return the library's modules, by file, for pdoc; the facade stands first."""
    files = sorted((ROOT / "cxrlib").rglob("*.py"))
    files = [file for file in files if file.stem == "__init__" or not file.stem.startswith("_")]
    return {file: pdoc.doc.Module.from_name(module_name(file)) for file in files}


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if file.stem == "__init__" else parts)


def read(source):
    if source.suffix == ".ipynb":
        return stilled(nbformat.read(source, as_version=4))
    text = nbformat.v4.new_markdown_cell(source.read_text(encoding="utf-8"))
    return nbformat.v4.new_notebook(cells=[text, *(gallery() if source == GALLERY else [])])


@cache
def gallery():
    """Return cells: of each plot function its name, its example, and the figure that it draws."""
    facade, cells = (ROOT / "cxrlib" / "__init__.pyi").read_text(encoding="utf-8"), []
    for module, name in PLOT.findall(facade):
        document = getattr(importlib.import_module(f"cxrlib.{module}"), name).__doc__
        lines = [each.source for each in doctest.DocTestParser().get_examples(document)]
        place = f"../cxrlib/{module.replace('.', '/')}.py#{name}"
        first = " ".join(document.partition("\n\n")[0].split())
        cells.append(nbformat.v4.new_markdown_cell(f"## [{name}]({place})"))
        picture = io.BytesIO()
        with chdir(ROOT):
            exec("".join(lines), {})
            plt.savefig(picture, format="png", dpi=200)
        plt.close("all")
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        size = {"width": int.from_bytes(picture.getvalue()[16:20]) // 2}  # sharp on any screen
        output = nbformat.v4.new_output("display_data", data, metadata={"image/png": size})
        cells.append(nbformat.v4.new_code_cell("".join(lines).rstrip(), outputs=[output]))
        cells.append(nbformat.v4.new_markdown_cell(first))
    return cells


def page_of(source):
    """Return the place of a source's page in the site."""
    place = source.relative_to(ROOT)
    if source.suffix == ".py":
        return Path("api", place.parent if source.stem == "__init__" else place).with_suffix(
            ".html"
        )
    return place.with_name("index.html" if place.name == "README.md" else f"{source.stem}.html")


def address(page, other):
    """Return what a page calls another one in a link."""
    return quote(Path(os.path.relpath(other, page.parent)).as_posix())


def around(source, pages, titles):
    """Return what the template says besides the cells: titles, neighbours, the way to the root."""
    order, page = list(pages), pages[source]
    at = order.index(source)
    site = {"title": titles[source], "root": "../" * (len(page.parts) - 1)}
    for name, neighbour in [("previous", order[:at][-1:]), ("next", order[at + 1 :][:1])]:
        for each in neighbour:
            site[name] = {"title": titles[each], "address": address(page, pages[each])}
    return site


def title(notebook):
    return notebook.cells[0].source.partition("\n")[0].lstrip("# ")


@cache
def exporter():
    return HTMLExporter(
        extra_template_paths=[str(SITE)],
        template_file="page.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )


def render(notebook, site):
    page, _ = exporter().from_notebook_node(notebook, resources={"site": site})
    soup = BeautifulSoup(page, "html.parser")
    for mark in soup.find_all("a", class_="anchor-link"):
        mark.decompose()
    for heading in soup.find_all(HEADINGS):  # as GitHub names them, so that a link serves both
        words = re.sub(r"[^\w -]", "", heading.get_text().strip().lower())
        heading["id"] = words.replace(" ", "-")
    return soup


def render_module(module, modules, site):
    """Return the page that pdoc makes of a module's docstrings, in the frame of the others."""
    everything = {each.modulename: each for each in modules.values()}
    made = BeautifulSoup(pdoc.render.html_module(module, everything), "html.parser")
    soup = render(nbformat.v4.new_notebook(), site)
    soup.main.replace_with(made.main)
    for style in made.find_all("style"):
        if style.string.lstrip().startswith(STYLES):
            soup.head.append(style)
    # Docstrings of other packages, traitlets' among them, name members that have no place here.
    named = {node["id"] for node in soup.find_all(id=True)}
    for link in soup.main.select('a[href^="#"]'):
        if unquote(link["href"][1:]) not in named:
            link.unwrap()
    return soup


def furnish(soup, is_module):
    """Add links at headings and a list of them; frame what may be wider than a phone."""
    if is_module:
        names = [node["id"] for node in soup.main.select("section[id]") if "." not in node["id"]]
        entries = [(name, name) for name in names]
        for link in soup.main.select("a.headerlink"):
            link["aria-label"] = f"Link to {link['href'][1:]}"
    else:
        headings = soup.main.find_all(["h2", "h3"])
        entries = [(each["id"], each.get_text()) for each in headings if each.name == "h2"]
        for heading in headings:
            label = f"Link to {heading.get_text()}"
            link = soup.new_tag("a", href=f"#{heading['id']}", **{"aria-label": label})
            link["class"], link.string = "headerlink", "#"
            heading.append(link)
    if len(entries) > 1:
        contents = soup.new_tag("details", id="contents")
        contents.append(soup.new_tag("summary", string="On this page"))
        contents.append(listed := soup.new_tag("ul"))
        for name, words in entries:
            listed.append(item := soup.new_tag("li"))
            item.append(soup.new_tag("a", href=f"#{name}", string=words))
        frame = soup.new_tag("nav", **{"aria-label": "On this page"})
        frame.append(contents)
        soup.main.insert_before(frame)
    for table in soup.main.find_all("table"):
        table.wrap(soup.new_tag("div", **{"class": "wide"}))
    for picture in soup.main.find_all("img"):
        if not picture["src"].startswith("data:") and not picture.find_parent("a"):
            picture.wrap(soup.new_tag("a", href=picture["src"], **{"class": "picture"}))


def code_colours():
    """Return the colours of code, for a light screen and a dark one."""
    kinds = [".highlight", ".pdoc-code"]
    light, dark = (HtmlFormatter(style=CODE[mode]).get_style_defs(kinds) for mode in CODE)
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


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


def sections_of_module(soup, page):
    """Return the docstring of each name of a module, as the search wants it."""
    module = ".".join(page.with_suffix("").parts[1:])
    return [
        {
            "address": f"{page.as_posix()}#{quote(section['id'])}",
            "page": module,
            "title": section["id"],
            "text": " ".join(" ".join(each.get_text() for each in docs).split()),
        }
        for section in soup.main.find_all("section", id=True)
        if (docs := section.find_all("div", class_="docstring"))
    ]


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
