"""What mouse, keys and fingers do in the Browser and the Explorer, on a page without Jupyter."""

import time

import numpy as np
import pandas as pd
import pytest
from host import show
from matplotlib.figure import Figure

from cxrlib import Browser, Explorer, plot_scores


@pytest.fixture
def viewer(chromium, study, scored):
    """A Browser of the test films and its page, its first film shown."""
    browser = Browser(study, scored)
    browser.split = "test"
    with show(chromium, browser, viewport={"width": 1200, "height": 1000}, has_touch=True) as page:
        until(lambda: shown(page) == browser.selected["filename"], page)
        page.locator("canvas.present").focus()
        yield browser, page


def until(condition, page, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        page.wait_for_timeout(20)


def shown(page, which="present"):
    return page.locator(f"canvas.{which}").get_attribute("data-film")


def place(page, x, y):
    """Return the pixel of the page at a share of the view."""
    box = page.locator("canvas.present").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page, start, end, button="left"):
    page.mouse.move(*start)
    page.mouse.down(button=button)
    page.mouse.move(*end, steps=4)
    page.mouse.up(button=button)


def colour(page, x, y, which="present"):
    """Return red, green and blue of what is drawn at a share of the view."""
    return page.locator(f"canvas.{which}").evaluate(
        "(c, [x, y]) => [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]"
        ".slice(0, 3)",
        [x, y],
    )


def test_dragging_sets_window_and_level(viewer):
    browser, page = viewer
    seen = []
    browser.observe(lambda change: seen.append(change["name"]), ["window", "level"])
    page.get_by_label("Preset").select_option("bone")
    until(lambda: (browser.window, browser.level, browser.invert) == (0.6, 0.55, False), page)
    width = page.locator("canvas.present").bounding_box()["width"]
    start = place(page, 0.5, 0.5)
    drag(page, start, (start[0] + 60, start[1] - 90), button="right")
    aimed = [pytest.approx(0.6 + 60 / width), pytest.approx(0.55 - 90 / width)]
    until(lambda: [browser.window, browser.level] == aimed, page)
    assert {"window", "level"} <= set(seen) and browser.centre == (0.5, 0.5)
    assert page.get_by_label("Preset").input_value() == ""
    page.keyboard.press("r")
    until(lambda: (browser.window, browser.level) == (1, 0.5), page)
    page.keyboard.press("w")
    drag(page, start, (start[0] - 60, start[1]))
    until(lambda: browser.window == pytest.approx(1 - 60 / width), page)
    dark = colour(page, 0.5, 0.5)[0]
    browser.invert = True
    page.push()
    until(lambda: colour(page, 0.5, 0.5)[0] == pytest.approx(255 - dark, abs=2), page)
    assert page.get_by_role("button", name="Invert").get_attribute("aria-pressed") == "true"


def test_zoom_stays_at_the_pointer(viewer):
    browser, page = viewer
    canvas = page.locator("canvas.present")
    canvas.focus()
    page.mouse.move(*place(page, 0.7, 0.4))
    for _ in range(3):
        page.mouse.wheel(0, -100)
    until(lambda: browser.zoom == pytest.approx(1.2**3, abs=0.002), page)
    for centre, pointer in zip(browser.centre, (0.7, 0.4), strict=True):
        assert centre + (pointer - 0.5) / browser.zoom == pytest.approx(pointer, abs=0.003)
    drag(page, place(page, 0.5, 0.5), place(page, 0.4, 0.5))
    moved = 0.7 + (0.5 - 0.7) / 1.2**3 + 0.1 / 1.2**3
    until(lambda: browser.centre[0] == pytest.approx(moved, abs=0.004), page)
    page.mouse.dblclick(*place(page, 0.5, 0.5))
    until(lambda: (browser.zoom, browser.centre) == (1, (0.5, 0.5)), page)
    page.get_by_role("button", name="1:1").click()
    until(lambda: browser.zoom * canvas.evaluate("c => c.width") == pytest.approx(512, abs=1), page)
    page.get_by_role("button", name="Fit").click()
    until(lambda: browser.zoom == 1, page)
    page.keyboard.press("f")
    until(lambda: page.evaluate("document.fullscreenElement?.className") == "film", page)
    page.keyboard.press("f")
    until(lambda: page.evaluate("document.fullscreenElement === null"), page)


def test_two_fingers_zoom_and_one_moves(viewer):
    browser, page = viewer
    fingers = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [
            dict(zip("xy", place(page, *p), strict=True)) | {"id": i} for i, p in enumerate(points)
        ]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (0.45, 0.5), (0.55, 0.5))
    for apart in (0.08, 0.11, 0.15):
        touch("touchMove", (0.5 - apart, 0.5), (0.5 + apart, 0.5))
    touch("touchEnd")
    until(lambda: browser.zoom == pytest.approx(3, abs=0.1), page)
    assert browser.centre == pytest.approx((0.5, 0.5), abs=0.02)
    touch("touchStart", (0.5, 0.5))
    for x in (0.45, 0.4, 0.35):
        touch("touchMove", (x, 0.5))
    touch("touchEnd")
    until(lambda: browser.centre[0] == pytest.approx(0.5 + 0.15 / browser.zoom, abs=0.02), page)


def test_lines_measure_the_ratio(viewer, study):
    browser, page = viewer
    browser.finding = "Cardiomegaly"
    page.push()
    until(lambda: shown(page) == browser.selected["filename"], page)
    page.keyboard.press("m")
    assert browser.ratio is None
    box = study.findings.set_index("filename").loc[[browser.selected["filename"]]].iloc[0]
    left, right = box["xmin"] / 512, box["xmax"] / 512
    aims = {"heart, left": left, "heart, right": right, "chest, left": 0.1, "chest, right": 0.85}
    for end, x in aims.items():
        handle = page.get_by_role("slider", name=f"{end} end")
        now = handle.bounding_box()
        middle = now["x"] + now["width"] / 2, now["y"] + now["height"] / 2
        drag(page, middle, (place(page, x, 0)[0], middle[1]))
    until(lambda: browser.ratio == pytest.approx((right - left) / 0.75, abs=0.004), page)
    told = page.locator(".measured")
    width = (box["xmax"] - box["xmin"]) * 400 / 512  # the simulated detector is 40 cm wide
    millimetres = float(told.inner_text().split("heart ")[1].split(" mm")[0])
    assert millimetres == pytest.approx(width, abs=1.5)
    probability = browser.selected["probability"]
    assert f"ratio {browser.ratio:.2f}" in told.inner_text()
    assert f"Cardiomegaly {probability:.2f}" in told.inner_text()
    handle.focus()
    position, before = browser.position, browser.chest[1]
    page.keyboard.press("ArrowLeft")
    until(lambda: browser.chest[1] == pytest.approx(before - 0.002), page)
    assert browser.position == position
    page.get_by_role("button", name="true ratio").click()
    truth = pd.read_csv(study.folder / "truth.csv").set_index("filename")["ctr"]
    until(
        lambda: f"True ratio {truth[browser.selected['filename']]:.3f}" in told.inner_text(), page
    )
    browser.position += 1
    assert browser.ratio is None and not browser.truth_shown


def test_an_earlier_film_lies_beside_and_moves_with_it(viewer, study):
    browser, page = viewer
    patient = study.films.query("split == 'test'")["patient"].mode()[0]
    browser.patient, names = patient, sorted(study.films.query("patient == @patient")["filename"])
    browser.position = browser.shown["filename"].tolist().index(names[1])
    page.push()
    until(lambda: shown(page) == names[1], page)
    page.keyboard.press("c")
    until(lambda: shown(page, "earlier") == names[0], page)
    before = [colour(page, 0.5, 0.3, which) for which in ("present", "earlier")]
    page.keyboard.press("i")
    for which, grey in zip(("present", "earlier"), before, strict=True):
        until(lambda w=which, g=grey: colour(page, 0.5, 0.3, w)[0] == 255 - g[0], page)
    browser.position = browser.shown["filename"].tolist().index(names[0])
    page.push()
    until(lambda: "no earlier radiograph" in page.locator(".note").inner_text(), page)
    until(lambda: shown(page, "earlier") == "", page)


def test_previous_and_next_go_by_outcome(viewer):
    browser, page = viewer
    page.get_by_label("Step to").select_option("false negative")
    missed = np.flatnonzero(browser.shown["outcome"] == "false negative")
    page.locator("canvas.present").focus()
    for at in [*missed, missed[-1]]:  # after the last there is none
        page.keyboard.press("ArrowRight")
        until(lambda at=at: browser.position == at, page)
    page.get_by_role("button", name="Previous radiograph").click()
    until(lambda: browser.position == missed[-2], page)


def test_boxes_have_the_colours_of_their_findings(viewer, study):
    browser, page = viewer
    both = study.films[study.films["labels"].map(len) == 2].iloc[0]
    browser.split, browser.patient = "", both["patient"]
    browser.position = browser.shown["filename"].tolist().index(both["filename"])
    page.push()
    until(lambda: shown(page) == both["filename"], page)
    colours = {}
    for box in browser.film["boxes"]:
        x, y = box["x"] + 0.5 * box["width"], box["y"] + box["height"]
        colours[box["label"]] = colour(page, x, min(y, 0.998))
    assert colours["Cardiomegaly"] == pytest.approx([240, 228, 66], abs=40)
    assert colours["Effusion"] == pytest.approx([86, 180, 233], abs=40)


@pytest.mark.parametrize("width, beside", [(1400, True), (800, False), (390, False)])
def test_the_film_comes_first_on_a_narrow_page(chromium, study, width, beside):
    with show(chromium, Browser(study), viewport={"width": width, "height": 900}) as page:
        film, strip = (
            page.locator(name).bounding_box() for name in ("canvas.present", ".thumbnails")
        )
        assert (strip["x"] > film["x"] + film["width"]) == beside
        assert (strip["y"] > film["y"] + film["height"]) != beside
        tops = {b.bounding_box()["y"] for b in page.locator(".thumbnails button").all()}
        assert beside or (len(tops) == 1 and film["y"] < 120)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_explorer_counts_as_the_figure_does(chromium, scored):
    explorer = Explorer(scored.predictions, 0.43, "Cardiomegaly")
    with show(chromium, explorer, viewport={"width": 1000, "height": 900}) as page:
        for threshold in (0.43, 0.8):
            explorer.threshold = threshold
            page.push()
            until(
                lambda t=threshold: (
                    page.locator("input[type=number]").first.input_value() == f"{t}"
                ),
                page,
            )
            ax = plot_scores(scored.predictions, threshold, Figure().subplots())
            bars = page.locator("rect[data-count]").all()
            counts = [int(bar.get_attribute("data-count")) for bar in bars]
            assert counts == [patch.get_height() for patch in ax.patches]
        slider, field = (
            page.get_by_label("Prevalence", exact=True),
            page.get_by_label("Prevalence, as"),
        )
        slider.fill("-2")
        until(lambda: explorer.prevalence == pytest.approx(0.01), page)
        assert slider.bounding_box()["width"] > 800
        field.fill("0.002")
        field.press("Enter")
        until(lambda: explorer.prevalence == pytest.approx(0.002), page)
        benefit = page.locator("[data-number='net benefit']").get_attribute("data-value")
        assert float(benefit) == pytest.approx(explorer.numbers["net benefit"], abs=1e-12)
        missed = page.locator("[data-number='missed per 100']").inner_text()
        assert missed == f"{10 * explorer.numbers['missed per 100']:.0f}"


def test_two_explorers_share_no_id(chromium, scored):
    explorer = Explorer(scored.predictions, 0.5)
    with show(chromium, explorer, viewport={"width": 1000, "height": 900}) as page:
        page.evaluate("show(model.script, model.state)")
        page.locator("circle").nth(1).wait_for()
        ids = [node.get_attribute("id") for node in page.locator("[id]").all()]
        assert len(ids) == len(set(ids)) == 4
