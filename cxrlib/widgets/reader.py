"""Read radiographs that are dropped on the page, from memory alone."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from traitlets import Any, Dict, Int, List, observe, validate

from cxrlib.data.files import regular_file
from cxrlib.data.frontal import rank_explanations
from cxrlib.data.images import image_size, read_image
from cxrlib.model.evidence import map_evidence
from cxrlib.model.predict import COLUMNS, score_films
from cxrlib.model.run import Run
from cxrlib.plots.evidence import plot_evidence
from cxrlib.plots.style import literal
from cxrlib.widgets.base import FilmWidget, script, spacing_of, to_bytes

SIDE = 1024  # of the film shown, in pixels
KEPT = 2**28  # bytes of files kept, so that they can be shown again
TOLD = 3  # explanations of a refused file
LOOKS = {"part": "a part of a chest", "lateral": "a lateral radiograph", "else": "something else"}


class Reader(FilmWidget):
    """Drop or choose radiographs: the probability, the decision, and where the evidence lies.

    Files go to the kernel in pieces, are read from memory, and are never written to disk. A file
    that cannot be read, or is refused, gets a sentence that says why. Several files make a
    worklist. `film` is the path to start with.

    Attributes, besides those of `cxrlib.widgets.base.FilmWidget`
    ----------
    scores : DataFrame, the row of `score_films` for the film shown; no row before the first film
    evidence : float32 array in logits, as `map_evidence` gives it; None unless the film was scored
    worklist : DataFrame, the rows of `score_films` of all files read
    chosen : int, which row of `worklist` is shown; -1 before the first

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> cxr.Reader(run, "medical/images/00060001_000.jpg").scores.loc[0, "status"]
    'ok'
    """

    _esm = script("controls.js", "viewer.js", "reader.js")
    result = Dict().tag(sync=True)
    files: List = List().tag(sync=True)
    chosen = Int(-1).tag(sync=True)
    scores = Any()
    evidence = Any(None, allow_none=True)
    worklist = Any()

    def __init__(self, run: Run, film: str | Path | None = None):
        self._run = run
        self._entries: list[dict] = []
        self._parts = bytearray()
        result = {"name": "", "status": "", "sentence": "No radiograph yet."}
        empty = pd.DataFrame(columns=COLUMNS)
        super().__init__(result=result, scores=empty, worklist=empty, map_opacity=0.6)
        if film is not None:
            self.read(Path(film).name, regular_file(Path(film)).read_bytes())

    def read(self, name: str, content: bytes) -> None:
        """Score a file's content, as if it had been dropped on the page; the last row is it."""
        file = io.BytesIO(content)
        file.name = name
        scores = score_films(self._run, [file])
        row, evidence = scores.iloc[0], None
        told: dict = {"name": name, "finding": self._run.finding}
        told |= {"status": row["status"], "sentence": self._sentence(row)}
        if row["status"] == "ok":
            evidence, _ = map_evidence(self._run, file)
            told["probability"] = float(row["probability"])
        elif row["status"] == "refused":
            told["looks"] = _looks(read_image(file, self._run.image_size))
        if row["status"] != "unreadable" and (spacing := spacing_of(file)):
            told["millimetres"] = spacing * max(image_size(file))
        self._entries.append({"file": file, "scores": scores, "evidence": evidence, "told": told})
        held = [entry for entry in self._entries if entry["file"]]
        while len(held) > 1 and sum(len(entry["file"].getbuffer()) for entry in held) > KEPT:
            held.pop(0)["file"] = None  # the oldest
        self.worklist = pd.concat([e["scores"] for e in self._entries], ignore_index=True)
        rows = self.worklist.astype(object).where(self.worklist.notna(), None)
        self.files = rows.to_dict("records")
        self.chosen = len(self._entries) - 1

    @validate("chosen")
    def _within(self, proposal) -> int:
        return min(max(proposal["value"], -1), len(self._entries) - 1)

    @observe("chosen")
    def _choose(self, _=None) -> None:
        if self.chosen >= 0:
            entry = self._entries[self.chosen]
            self._lay_lines()
            self.evidence, self.scores = entry["evidence"], entry["scores"]
            self.result = entry["told"]
            self._show()

    def static_figure(self) -> Figure:
        figure = Figure((5.6, 4.2), layout="constrained")
        ax = figure.subplots()
        if self.evidence is not None and (file := self._entries[self.chosen]["file"]):
            film = read_image(file, self._run.image_size)
            plot_evidence(film, self.evidence, ax=ax, finding=self._run.finding)
        ax.axis("off")
        figure.suptitle(literal(self.result["sentence"]), fontsize=8, wrap=True)
        return figure

    def _sentence(self, row: pd.Series) -> str:
        if row["status"] != "ok":
            return f"{row['path']} gets no score: {row['reason']}."
        run, probability = self._run, row["probability"]
        seen = f"This radiograph {row['reason']}: do not judge by it. " if row["reason"] else ""
        return (
            f"{row['path']}: probability of {run.finding} {probability:.2f}. About "
            f"{100 * probability:.0f} of 100 radiographs with this score have it, if "
            f"{100 * run.prevalence:.0f} of 100 have it, as in training. Where it is rarer, fewer "
            f"do. Decision: {row['decision']} (threshold {run.threshold:.2f}). "
            f"{seen}Not a diagnosis. {run.caution}"
        ).rstrip()

    def _answer(self, _, message: dict, buffers: list) -> None:
        """Take a piece of a file, or show the film again to a page that asks for it."""
        if message.get("kind") == "show":
            self._show()
        elif message.get("kind") == "piece":
            if message["number"] == 0:
                self._parts = bytearray()
            self._parts += buffers[0]
            if message["number"] + 1 == message["of"]:
                content, self._parts = bytes(self._parts), bytearray()
                self.read(message["name"], content)

    def _show(self) -> None:
        file = self._entries[self.chosen]["file"] if self.chosen >= 0 else None
        if not file or self.result["status"] not in ("ok", "refused"):
            self.send({"kind": "nothing"})
            return
        film = read_image(file, min(SIDE, max(image_size(file))))
        evidence = b"" if self.evidence is None else self.evidence.astype("<f4").tobytes()
        self.send({"kind": "film"}, [to_bytes(film), evidence])


def _looks(film) -> list[tuple[str, float]]:
    """Return what a film looks most like to the check, and its lead over a frontal film."""
    gains = rank_explanations(film[None]).iloc[0].nlargest(TOLD)
    names = [LOOKS.get(name, name) for name in gains.index]
    return list(zip(names, gains.round(3).tolist(), strict=True))
