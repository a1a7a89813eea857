"""Look through the films of a study: thumbnails, one large view, filters and overlays."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import expit
from traitlets import Any, Bool, Dict, Enum, Int, Unicode, observe, validate

from cxrlib.data.images import ImageError, boxes_on_square, image_size, read_image
from cxrlib.data.labels import BOX
from cxrlib.data.study import Study
from cxrlib.plots.style import literal
from cxrlib.widgets.base import FilmWidget, read_truth, script, spacing_of, to_bytes

if TYPE_CHECKING:
    from cxrlib.model.run import Run

OUTCOMES = ["", "true positive", "false positive", "false negative", "true negative"]
ORDERS = ["as in the study", "highest probability first", "lowest probability first"]
SIDE = 1024  # of the large view, in pixels, for films that are larger
THUMBNAIL = 96  # pixels
KEPT = {"thumbnails": 2000, "pictures": 8, "maps": 200}  # at most, about 6, 16 and 1 MB


class Browser(FilmWidget):
    """Films of a study as a page of thumbnails and one large view.

    '?' lists the keys. The wheel zooms once the film has the focus, dragging moves it, and the
    right button sets window and level. A run adds scores, outcomes and maps of evidence to the
    films that it scored. Of a simulated study the page can show the true cardiothoracic ratio.

    Attributes, besides those of `cxrlib.widgets.base.FilmWidget`
    ----------
    finding, view, split, patient, outcome : str
        Filters; '' means not filtered. `patient` is a whole id or its beginning. `outcome` is one
        of 'true positive', 'false positive', 'false negative' and 'true negative'.
    order : 'as in the study', 'highest probability first' or 'lowest probability first'
    position : int, of the film shown, among those that pass
    step : an outcome, to which 'previous' and 'next' go; '' for any film
    compare : bool, whether the patient's earlier film, by file name, is shown beside this one
    shown : DataFrame, the films that pass, in order
    selected : Series, the film shown (a row of `shown`), or None where no film passes

    Examples
    --------
    >>> import cxrlib as cxr
    >>> browser = cxr.Browser(cxr.read_study("medical"))
    >>> browser.finding, browser.view = "Cardiomegaly", "AP"
    >>> len(browser.shown)
    43
    """

    _esm = script("controls.js", "viewer.js", "browser.js")
    finding = Unicode().tag(sync=True)
    view = Unicode().tag(sync=True)
    split = Unicode().tag(sync=True)
    patient = Unicode().tag(sync=True)
    outcome = Enum(OUTCOMES, "").tag(sync=True)
    order = Enum(ORDERS, ORDERS[0]).tag(sync=True)
    position = Int().tag(sync=True)
    step = Enum(OUTCOMES, "").tag(sync=True)
    compare = Bool().tag(sync=True)
    selected = Any(None, allow_none=True)
    count = Int().tag(sync=True)
    version = Int().tag(sync=True)  # of the list of films: an answer to an older one is dropped
    choices = Dict().tag(sync=True)
    film = Dict().tag(sync=True)

    def __init__(self, study: Study, run: Run | None = None):
        self._run = run
        self._films = study.films if run is None else _with_scores(study.films, run)
        boxes = study.findings.dropna(subset=["xmin"])
        self._boxes = boxes.assign(colour=pd.factorize(boxes["label"], sort=True)[0])
        ordered = self._films.sort_values(["patient", "filename"])
        self._earlier = ordered.index.to_series().groupby(ordered["patient"]).shift()
        self._truth = read_truth(study.folder)
        self._thumbnail = lru_cache(KEPT["thumbnails"])(_thumbnail)
        self._picture = lru_cache(KEPT["pictures"])(_picture)
        self._evidence = lru_cache(KEPT["maps"])(self._map)
        choices = {
            "finding": sorted(set(self._films["labels"].explode())),
            **{name: sorted(set(self._films[name].unique()) - {""}) for name in ("view", "split")},
            "outcome": OUTCOMES[1:] if run else [],
            "order": ORDERS if run else ORDERS[:1],
            "evidence": run.finding if run else "",
        }
        super().__init__(choices=choices)
        self._filter()

    def static_figure(self) -> Figure:
        films = self.shown.iloc[self.position - self.position % 8 :][:8]
        figure = Figure((8, 4.4))
        # Places by hand: to find them costs as long as all the rest.
        places = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.88, "hspace": 0.14}
        axes = figure.subplots(2, 4, gridspec_kw=places | {"wspace": 0.03}).flat
        for ax in axes:
            ax.axis("off")
        for ax, film in zip(figure.axes, films.itertuples(), strict=False):
            ax.set_title(literal(f"{'; '.join(film.labels)} {film.view}".strip()), fontsize=8)
            try:
                thumbnail = Image.open(io.BytesIO(self._thumbnail(film.path)))
                ax.imshow(thumbnail, cmap="gray", vmin=0, vmax=255)
            except (FileNotFoundError, ImageError):
                ax.text(0.5, 0.5, "cannot be read", ha="center", fontsize=8)
        figure.suptitle(f"{len(films)} of {self.count} radiographs", fontsize=9)
        return figure

    @validate("position")
    def _within(self, proposal) -> int:
        return min(max(proposal["value"], 0), max(self.count - 1, 0))

    @observe("finding", "view", "split", "patient", "outcome", "order")
    def _filter(self, _=None) -> None:
        films = self._films
        passes = films["patient"].str.startswith(self.patient)
        if self.finding:
            passes &= films["labels"].map(lambda labels: self.finding in labels)
        for name in ("view", "split", "outcome"):
            if getattr(self, name):
                passes &= films[name] == getattr(self, name)
        self.shown = films[passes]
        if self.order != ORDERS[0]:  # films without a score come last in both orders
            upwards = self.order == ORDERS[2]
            self.shown = self.shown.sort_values("probability", ascending=upwards, kind="stable")
        with self.hold_sync():
            self.version += 1
            self.count = len(self.shown)
            self.position = 0
            self._select()

    @observe("position")
    def _select(self, _=None) -> None:
        self._lay_lines()
        self.selected = self.shown.iloc[self.position] if self.count else None
        self._describe()

    def _describe(self, note: str = "") -> None:
        film = self.selected
        if film is None:
            self.film = {"caption": "No radiograph matches these filters.", "boxes": []}
            return
        said, truth = self._say(film), self._truth.get(film["filename"], {})
        if film.get("outcome"):
            said["probability"] = film["probability"]
            said["caption"] += f" · threshold {self._run.threshold:.3f} · {film['outcome']}"
        if note:
            said["caption"] += f" · {note}"
        if pixel := truth.get("pixel_mm") or spacing_of(film["path"]):
            said["millimetres"] = pixel * float(max(film["width"], film["height"]))
        if "ctr" in truth:
            said["truth"] = truth["ctr"]
        if np.isfinite(before := self._earlier[film.name]):
            said["earlier"] = self._say(self._films.loc[before])
        self.film = said

    def _say(self, film: pd.Series) -> dict:
        """Return what the page tells of a film, whichever of the two it is."""
        parts = [film["filename"], "; ".join(film["labels"]), film["view"] or "view unknown"]
        parts += [f"patient {film['patient']}", film["split"]]
        if film.get("outcome"):
            how = " (held out)" if film["split"] == "train" else ""
            parts.append(f"probability {film['probability']:.3f}{how}")
        caption = " · ".join(parts)
        return {"filename": film["filename"], "caption": caption, "boxes": self._boxes_of(film)}

    def _boxes_of(self, film: pd.Series) -> list[dict]:
        """Return boxes as fractions of the padded square that the view shows."""
        boxes = self._boxes[self._boxes["filename"] == film["filename"]]
        on_square = boxes_on_square(boxes[BOX].to_numpy(), film["width"], film["height"])
        x, y, right, bottom = on_square.T
        places = {"x": x, "y": y, "width": right - x, "height": bottom - y}
        return boxes[["label", "colour"]].assign(**places).to_dict("records")

    def _answer(self, _, question: dict, __) -> None:
        """Send what the front end asks for of the films at some positions of the list."""
        if question.get("version") != self.version:
            return
        if question["kind"] == "step":
            of_outcome = np.flatnonzero(self.shown["outcome"] == self.step)
            past = of_outcome[(of_outcome - self.position) * question["by"] > 0]
            self.position = int(past[:: question["by"]][0]) if len(past) else self.position
            return
        drawn = {"thumbnails": self._thumbnail, "picture": self._picture, "earlier": self._picture}
        draw = drawn.get(question["kind"], self._evidence)
        answer, buffers = {**question, "reasons": {}}, []
        for at in question["at"]:
            try:
                row = self.shown.index[at]
                if question["kind"] == "earlier" and np.isnan(row := self._earlier[row]):
                    raise FileNotFoundError  # the page was quicker than the film's description
                drawing = draw(self._films["path"].loc[row])
                if draw is self._evidence:
                    drawing, probability = drawing
                    # A fine-tuned network did not see the films that it has scores of.
                    scored = self._films["probability"].loc[row]
                    if at == self.position and abs(probability - scored) > 1e-3:
                        note = f"the map is of the final model, fitted on it: {probability:.3f}"
                        self._describe(note=note)
                buffers.append(drawing)
            except (FileNotFoundError, ImageError) as error:
                answer["reasons"][at] = getattr(error, "reason", "the file does not exist")
                buffers.append(b"")
        self.send(answer, buffers)

    def _map(self, path: str) -> tuple[bytes, float]:
        """Return the evidence and the probability of the model that it belongs to."""
        from cxrlib.model.evidence import map_evidence  # loads TensorFlow

        evidence, remainder = map_evidence(self._run, path)
        return evidence.astype("<f4").tobytes(), float(expit(evidence.sum() + remainder))


def _with_scores(films: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return films with `probability` (NaN without a score) and `outcome` ('' without)."""
    scores = run.predictions.drop_duplicates("path").set_index("path")
    scores = scores[np.isfinite(scores["probability"])].reindex(films["file"])
    called, positive = scores["probability"] >= run.threshold, scores["target"] == 1
    cases = [scores["target"].isna(), positive & called, called, positive]
    outcome = np.select(cases, OUTCOMES[:4], default=OUTCOMES[4])
    return films.assign(probability=scores["probability"].to_numpy(), outcome=outcome)


def _thumbnail(path: str) -> bytes:
    pixels = (read_image(path, THUMBNAIL) * 255).round().astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def _picture(path: str) -> bytes:
    return to_bytes(read_image(path, min(SIDE, max(image_size(path)))))
