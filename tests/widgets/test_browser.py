"""The widgets driven by a headless Chromium: what the page shows, what Python holds.

Most is done in JupyterLab; Notebook 7 and Voila come from the same server with a smaller notebook.
Screenshots go to the folder that CXR_SHOTS names, else to runs/screenshots/; browser.png,
explorer.png and reader.png are those of docs/. Skipped where no Chromium is installed.
"""

import base64
import io
import json
import os
import re
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxrlib.metrics.report import evaluate
from lab import open_notebook, run_all, serve_lab

ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ.get("CXR_SHOTS", ROOT / "runs" / "screenshots"))
BUNDLED = str(ROOT / "medical" / "models" / "cardiomegaly")
CELLS = [
    "from cxrlib.model.run import load_run\nfrom cxrlib.data.study import read_study\n"
    "from cxrlib import Browser, Explorer, Reader\n"
    f"data = read_study({str(ROOT / 'medical')!r})\n"
    f"run = load_run({BUNDLED!r})\n"
    "train = run.split('train')",
    "browser = Browser(data, run)\nbrowser",
    "explorer = Explorer(train, run.threshold, 'Cardiomegaly')\nexplorer",
    "reader = Reader(run)\nreader",
]
SCORE = "float(__import__('cxrlib').score_films(run, [{!r}])['probability'][0])"
# Voila's own template asks for icons and Mermaid there; the page works without.
VOILAS_HOSTS = {"cdn.jsdelivr.net", "cdnjs.cloudflare.com"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, trained_run):
    """A function from a path to its address, token included, on a JupyterLab of its own."""
    small = CELLS[0].replace(BUNDLED, str(trained_run[0]))
    few = [small, "browser = Browser(data)\nbrowser", *CELLS[2:]]
    notebooks = {"widgets.ipynb": CELLS, "few.ipynb": few}
    with serve_lab(tmp_path_factory.mktemp("lab"), notebooks) as address:
        yield address


@pytest.fixture(scope="module")
def page(chromium, lab):
    """The notebook, every cell run; each request of the page is to this machine."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = chromium.new_page(viewport={"width": 1300, "height": 1500})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    open_notebook(page, lab("lab/tree/widgets.ipynb"))
    try:
        run_all(page)
        page.get_by_role("group", name="Radiograph reader").wait_for(timeout=300_000)
    finally:
        page.screenshot(path=SHOTS / "notebook.png")
    yield page
    page.close()


@pytest.fixture(scope="module")
def kernel(lab):
    """A function that evaluates an expression in the notebook's own kernel."""
    with kernel_of(lab, "widgets.ipynb") as value:
        yield value


@contextmanager
def kernel_of(lab, path):
    from jupyter_client import BlockingKernelClient, find_connection_file

    with urllib.request.urlopen(lab("api/sessions")) as answer:
        (identity,) = [s["kernel"]["id"] for s in json.load(answer) if s["path"] == path]
    client = BlockingKernelClient(connection_file=find_connection_file(f"*{identity}*"))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(60)

    def value(expression):
        text = f"__import__('json').dumps({expression})"
        reply = client.execute("", user_expressions={"x": text}, reply=True, timeout=300)
        shown = reply["content"]["user_expressions"]["x"]
        assert shown["status"] == "ok", shown
        return json.loads(eval(shown["data"]["text/plain"]))

    yield value
    client.stop_channels()


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_films_are_browsed_by_key_and_button(page, kernel):
    widget = page.get_by_role("group", name="Radiograph browser")
    canvas = widget.locator("canvas.present")
    wait_for(lambda: canvas.get_attribute("data-film") == "00060001_000.jpg")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    second = kernel("data.films['filename'][1]")
    wait_for(lambda: canvas.get_attribute("data-film") == second)
    assert kernel("browser.selected['filename']") == second
    widget.get_by_role("button", name="Next radiograph").click()
    wait_for(lambda: kernel("browser.position") == 2)
    page.keyboard.press("ArrowLeft")
    wait_for(lambda: kernel("browser.position") == 1)


def test_filters_and_order(page, kernel):
    widget = page.get_by_role("group", name="Radiograph browser")
    widget.get_by_label("Split").select_option("test")
    widget.get_by_label("Outcome").select_option("false positive")
    widget.get_by_label("Order").select_option("highest probability first")
    chosen = ["test", "false positive", "highest"]
    wait_for(lambda: kernel("[browser.split, browser.outcome, browser.order[:7]]") == chosen)
    assert set(kernel("browser.shown['split'].tolist()")) == {"test"}
    shown = kernel("browser.shown['probability'].tolist()")
    threshold = kernel("run.threshold")
    assert shown == sorted(shown, reverse=True) and min(shown) >= threshold
    wait_for(lambda: "false positive" in widget.locator(".caption").inner_text())
    assert widget.locator(".thumbnails button").count() == len(shown)
    wait_for(lambda: widget.locator(".thumbnails img").count() == len(shown))


def test_window_invert_and_evidence_change_the_picture(page, kernel):
    widget = page.get_by_role("group", name="Radiograph browser")
    canvas = widget.locator("canvas.present")
    mean = """node => {
        const [at, side] = [node.width * 0.3, node.width * 0.4];
        const d = node.getContext('2d').getImageData(at, at, side, side).data;
        const sums = [0, 1, 2].map(c => d.filter((_, i) => i % 4 == c).reduce((a, b) => a + b));
        return sums.map(sum => 4 * sum / d.length);
    }"""
    wait_for(lambda: canvas.evaluate(mean)[0] > 20)
    before = canvas.evaluate(mean)
    canvas.focus()
    page.keyboard.press("i")
    wait_for(lambda: canvas.evaluate(mean)[0] == pytest.approx(255 - before[0], abs=6))
    page.keyboard.press("i")
    widget.get_by_label("Level", exact=True).fill("1")
    wait_for(lambda: canvas.evaluate(mean)[0] < before[0] - 30)
    widget.get_by_label("Level", exact=True).fill("0.5")
    widget.get_by_label("Evidence", exact=True).fill("0.8")
    wait_for(lambda: len({round(c) for c in canvas.evaluate(mean)}) > 1)
    widget.screenshot(path=SHOTS / "browser.png")
    caption = widget.locator(".caption")
    assert "final model" not in caption.inner_text()
    widget.get_by_label("Split").select_option("train")
    wait_for(lambda: "(held out)" in caption.inner_text() and "final model" in caption.inner_text())
    assert "logits per 1 % of the image for it" in widget.locator(".legend").inner_text()


def test_patient_filter(page, kernel):
    widget = page.get_by_role("group", name="Radiograph browser")
    widget.get_by_label("Split").select_option("")
    widget.get_by_label("Outcome").select_option("")
    widget.get_by_label("Order").select_option("as in the study")
    field = widget.get_by_label("Patient", exact=True)
    patient = kernel("data.films['patient'].value_counts().index[0]")
    field.press_sequentially(patient)
    wait_for(lambda: kernel("browser.patient") == patient)
    count = kernel(f"int((data.films['patient'] == {patient!r}).sum())")
    wait_for(lambda: f"1 of {count}" in widget.inner_text())
    wait_for(lambda: widget.locator(".thumbnails img").count() == count)
    assert f"patient {patient}" in widget.locator(".caption").inner_text()
    field.fill("nobody")
    wait_for(lambda: "No radiograph matches" in widget.locator(".caption").inner_text())
    assert kernel("browser.selected is None")
    assert widget.locator("canvas.present").get_attribute("data-film") == ""
    field.fill("")
    wait_for(
        lambda: widget.locator("canvas.present").get_attribute("data-film") == "00060001_000.jpg"
    )


# Columns and rows, as fractions of the view, where the box's yellow is.
YELLOW = """node => {
    const { width, height } = node;
    const d = node.getContext('2d').getImageData(0, 0, width, height).data;
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let i = 0; i < width * height; i++) {
        if (d[4 * i] - d[4 * i + 2] < 100 || d[4 * i + 1] - d[4 * i + 2] < 100) continue;
        const [x, y] = [i % width, Math.floor(i / width)];
        [left, right] = [Math.min(left, x), Math.max(right, x)];
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
    return right < 0 ? null : [left / width, top / height, right / width, bottom / height];
}"""


def test_boxes_are_drawn_where_the_study_has_them_and_zoom_with_the_film(page, kernel):
    widget = page.get_by_role("group", name="Radiograph browser")
    canvas = widget.locator("canvas.present")
    widget.get_by_label("Evidence", exact=True).fill("0")
    (box,) = kernel("browser.film['boxes']")
    edges = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
    wait_for(lambda: canvas.evaluate(YELLOW) == pytest.approx(edges, abs=0.004))
    widget.get_by_label("Boxes", exact=True).fill("0")
    wait_for(lambda: canvas.evaluate(YELLOW) is None)
    widget.get_by_label("Boxes", exact=True).fill("1")

    def around_the_middle(zoom):
        return pytest.approx([0.5 + (edge - 0.5) * zoom for edge in edges], abs=0.01)

    canvas.focus()
    page.keyboard.press("+")
    wait_for(lambda: canvas.evaluate(YELLOW) == around_the_middle(1.2))
    page.keyboard.press("Shift+ArrowUp")  # the film moves down by what was cut off
    cut = 0.5 - 0.5 / 1.2
    moved = [(edge - offset) * 1.2 for edge, offset in zip(edges, [cut, 0, cut, 0], strict=True)]
    wait_for(lambda: canvas.evaluate(YELLOW) == pytest.approx(moved, abs=0.01))
    page.keyboard.press("0")
    wait_for(lambda: canvas.evaluate(YELLOW) == pytest.approx(edges, abs=0.004))
    canvas.scroll_into_view_if_needed()
    canvas.hover()
    page.mouse.wheel(0, -100)
    wait_for(lambda: canvas.evaluate(YELLOW) == around_the_middle(1.2))
    assert widget.get_by_label("Zoom, as").input_value() == "1.2"
    page.mouse.wheel(0, 100)
    wait_for(lambda: canvas.evaluate(YELLOW) == pytest.approx(edges, abs=0.004))


def test_sliders_move_every_number(page, kernel):
    widget = page.get_by_role("group", name="Operating point")
    wait_for(lambda: widget.locator("circle").count() == 1)
    widget.get_by_label("Threshold", exact=True).fill("0.3")
    wait_for(lambda: abs(kernel("explorer.threshold") - 0.3) < 0.01)
    threshold = kernel("explorer.threshold")
    expected = kernel("explorer.numbers.to_dict()")
    shown = {
        cell.get_attribute("data-number"): float(cell.get_attribute("data-value"))
        for cell in widget.locator("[data-number]").all()
    }
    assert shown == pytest.approx(expected, abs=1e-12)
    predictions = pd.read_csv(ROOT / "medical/models/cardiomegaly/predictions.csv")
    measured = evaluate(predictions.query("split == 'train'"), threshold)
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert shown[name] == pytest.approx(measured[name]["value"], abs=1e-6)
    assert {name: shown[name] for name in ("tn", "fp", "fn", "tp")} == measured["confusion"]
    widget.get_by_label("Prevalence", exact=True).fill("-1.3")  # a power of ten
    wait_for(lambda: kernel("explorer.prevalence") < 0.06)
    assert float(widget.locator("[data-number=ppv]").get_attribute("data-value")) < shown["ppv"]
    widget.screenshot(path=SHOTS / "explorer.png")


def test_a_film_is_read_and_a_file_that_is_none_gets_a_sentence(page, kernel, medical):
    widget = page.get_by_role("group", name="Radiograph reader")
    film = medical / kernel("run.split('test').query('target == 1')['path'].iloc[0]")
    widget.get_by_label("Choose a radiograph").set_input_files(film)
    wait_for(lambda: widget.locator("canvas.present").get_attribute("data-film") == film.name)
    probability = kernel("reader.scores['probability'][0]")
    assert f"Cardiomegaly {probability:.2f}" in widget.locator(".caption").inner_text()
    widget.screenshot(path=SHOTS / "reader.png")
    none = {"name": "notes.png", "mimeType": "image/png", "buffer": b"x" * 5_000_000}
    widget.get_by_label("Choose a radiograph").set_input_files(none)
    wait_for(lambda: "notes.png gets no score" in widget.locator(".caption").inner_text())
    upside_down = io.BytesIO()
    Image.open(film).rotate(180).save(upside_down, "PNG")
    turned = {"name": "turned.png", "mimeType": "image/png", "buffer": upside_down.getvalue()}
    widget.get_by_label("Choose a radiograph").set_input_files(turned)
    wait_for(lambda: "no score: upside down." in widget.locator(".caption").inner_text())
    wait_for(lambda: widget.locator("canvas.present").get_attribute("data-film") == "turned.png")
    assert "upside down" in widget.locator(".looks th").first.inner_text()
    assert widget.locator(".name").inner_text() == "turned.png"
    rows = widget.locator(".worklist tr")
    assert [row.split("\t")[1] for row in rows.all_inner_texts()] == [
        f"{probability:.2f}",
        "unreadable",
        "refused",
    ]
    rows.first.get_by_role("button").click()
    wait_for(lambda: widget.locator("canvas.present").get_attribute("data-film") == film.name)
    assert kernel("reader.scores['probability'][0]") == probability
    assert "Traceback" not in page.locator(".jp-Notebook").inner_text()


def test_a_film_is_dropped(page, kernel, medical):
    widget = page.get_by_role("group", name="Radiograph reader")
    film = medical / "images" / kernel("data.films['filename'][1]")
    content = base64.b64encode(film.read_bytes()).decode()
    dropped = page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const dropped = new DataTransfer();
            dropped.items.add(new File([bytes], name, { type: 'image/jpeg' }));
            return dropped;
        }""",
        [film.name, content],
    )
    target = widget.locator(".worklist")  # anywhere in the widget
    target.dispatch_event("dragover", {"dataTransfer": dropped})
    assert "over" in widget.get_attribute("class")
    target.dispatch_event("drop", {"dataTransfer": dropped})
    wait_for(lambda: widget.locator("canvas.present").get_attribute("data-film") == film.name)
    assert "over" not in widget.get_attribute("class")
    probability = kernel("float(reader.scores['probability'][0])")
    assert probability == pytest.approx(kernel(SCORE.format(str(film))), abs=1e-6)
    assert f"Cardiomegaly {probability:.2f}" in widget.locator(".caption").inner_text()


WIDGETS = {"browser": "Radiograph browser", "explorer": "Operating point"}
WIDGETS["reader"] = "Radiograph reader"
NOTEBOOK = """() => [".jp-Cell", ".jp-MarkdownCell", ".jp-RawCell", ".jp-Notebook.jp-mod-editMode",
    ".jp-Dialog"].map((name) => document.querySelectorAll(name).length)"""


def press_keys(page):
    """Press keys that notebooks have commands for on every control, and see what they do."""
    notebook = page.evaluate(NOTEBOOK)
    for name in WIDGETS.values():
        widget = page.get_by_role("group", name=name, exact=True)
        kinds = "button:not(.handle)", "select", "input:not([type=search])", "canvas"
        wanted = ", ".join(f"{kind}:visible:not(.thumbnails button + button)" for kind in kinds)
        for control in widget.locator(wanted).all():
            kind = control.evaluate("c => c.type ?? c.tagName")
            control.focus()
            if kind in ("range", "select-one"):
                arrows = (
                    ["ArrowRight", "ArrowLeft"] if kind == "range" else ["ArrowDown", "ArrowUp"]
                )
                at_end = (
                    "c => c.type == 'range' ? c.value == c.max : c.selectedIndex == c.length - 1"
                )
                before = control.input_value()
                page.keyboard.press(arrows[control.evaluate(at_end)])
                assert control.input_value() != before, f"{name}: {control}"
                page.keyboard.press(arrows[not control.evaluate(at_end)])
            for key in "xmdd":
                page.keyboard.press(key)
            assert page.evaluate(NOTEBOOK) == notebook, f"{name}: a key leaks from {control}"
        # Last, since the kernel takes controls away while no patient's name holds these letters.
        for search in widget.locator("[type=search]:visible").all():
            search.press_sequentially("xd")
            assert search.input_value() == "xd"
            search.fill("")
            assert page.evaluate(NOTEBOOK) == notebook, f"{name}: a key leaks from {search}"


def shoot(page):
    """Keep pictures of each widget, in three widths, light and dark, with the page's colours."""
    for theme in ("Light", "Dark"):
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        items = page.locator(".lm-Menu-item")  # those that open a menu have no role
        items.filter(has_text=re.compile(r"^Theme\s*$")).hover()
        items.filter(has_text=re.compile(rf"^JupyterLab {theme}\s*$")).click()
        page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        for width in (1400, 800, 390):
            page.set_viewport_size({"width": width, "height": 1600})
            for short, name in WIDGETS.items():
                widget = page.get_by_role("group", name=name, exact=True)
                wide = "w => w.scrollWidth <= w.clientWidth"
                wait_for(lambda w=widget, wide=wide: w.evaluate(wide), 10)
                widget.screenshot(path=SHOTS / f"{short}-{width}-{theme.lower()}.png")
        colours = widget.evaluate(
            "w => [getComputedStyle(w).color, getComputedStyle(w.closest("
            "'.jp-OutputArea-output')).color]"
        )
        assert colours[0] == colours[1]


def test_keys_work_on_each_control_and_none_reaches_the_notebook(page):
    press_keys(page)


def hosts(asked):
    return {url.split("/")[2].split(":")[0] for url in asked if url.startswith("http")}


def test_nothing_left_the_machine(page):
    assert hosts(page.asked) == {"127.0.0.1"}


def drive(page):
    """Read a film, go to the next one, move the threshold; return what is shown of the last two."""
    reader = page.get_by_role("group", name="Radiograph reader")
    film = ROOT / "medical" / "images" / "00060001_000.jpg"
    reader.get_by_label("Choose a radiograph").set_input_files(film)
    wait_for(lambda: reader.locator("canvas.present").get_attribute("data-film") == film.name)
    assert "probability of Cardiomegaly 0." in reader.locator(".caption").inner_text()
    films = page.get_by_role("group", name="Radiograph browser")
    canvas = films.locator("canvas.present")
    wait_for(lambda: canvas.get_attribute("data-film") == "00060001_000.jpg")
    films.get_by_role("button", name="Next radiograph").click()
    wait_for(lambda: canvas.get_attribute("data-film") not in ("", "00060001_000.jpg"))
    wait_for(lambda: films.locator(".thumbnails img").count() == 20)
    point = page.get_by_role("group", name="Operating point")
    shown = point.locator("[data-number=sensitivity]")
    before = float(shown.get_attribute("data-value"))
    point.get_by_label("Threshold", exact=True).fill("0.1")
    wait_for(lambda: float(shown.get_attribute("data-value")) > before)
    return canvas.get_attribute("data-film"), float(shown.get_attribute("data-value"))


def test_widgets_in_notebook_7(chromium, lab):
    page, asked = chromium.new_page(viewport={"width": 1300, "height": 1000}), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(lab("notebooks/few.ipynb"))
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=300_000)
    try:
        run_all(page)
        page.get_by_role("group", name="Operating point").wait_for(timeout=300_000)
    finally:
        page.screenshot(path=SHOTS / "notebook7.png")
    film, sensitivity = drive(page)
    with kernel_of(lab, "few.ipynb") as value:
        assert value("[browser.position, browser.selected['filename']]") == [1, film]
        wait_for(lambda: value("explorer.threshold") == pytest.approx(0.1, abs=0.01))
        assert value("explorer.numbers['sensitivity']") == pytest.approx(sensitivity, abs=1e-12)
    press_keys(page)
    shoot(page)
    assert hosts(asked) == {"127.0.0.1"}
    page.close()


def test_widgets_in_voila(chromium, lab):
    page, asked = chromium.new_page(viewport={"width": 1300, "height": 1000}), []
    page.on("request", lambda request: asked.append(request))
    page.route(lambda url: hosts([url]) & VOILAS_HOSTS, lambda route: route.abort())
    page.goto(lab("voila/render/few.ipynb"), timeout=300_000)
    try:
        page.get_by_role("group", name="Operating point").wait_for(timeout=300_000)
    finally:
        page.screenshot(path=SHOTS / "voila.png")
    drive(page)
    press_keys(page)
    assert hosts(request.url for request in asked) - VOILAS_HOSTS == {"127.0.0.1"}
    elsewhere = [request for request in asked if hosts([request.url]) & VOILAS_HOSTS]
    assert {request.resource_type for request in elsewhere} <= {"stylesheet", "script"}
    page.close()
