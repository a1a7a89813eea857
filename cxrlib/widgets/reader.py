"""Read one radiograph that is dropped on the page, from memory alone."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from traitlets import Dict

from cxrlib.data.files import regular_file
from cxrlib.data.images import image_size, read_image
from cxrlib.model.evidence import map_evidence
from cxrlib.model.predict import score_films
from cxrlib.model.run import Run
from cxrlib.plots.evidence import plot_evidence
from cxrlib.plots.style import literal
from cxrlib.widgets.base import Widget, script, to_bytes

SIDE = 1024  # of the film shown, in pixels


class Reader(Widget):
    """Drop or choose a radiograph: its probability, the decision, and where the evidence lies.

    The file goes to the kernel in pieces, is read from memory, and is never written to disk. A file
    that cannot be read, or is refused, gets a sentence that says why. `film` is the path to start
    with.

    Attributes
    ----------
    scores : DataFrame, the row of `score_films` for the film shown; no row before the first film
    evidence : float32 array in logits, as `map_evidence` gives it; None unless the film was scored

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> cxr.Reader(run, "medical/images/00060001_000.jpg").scores.loc[0, "status"]
    'ok'
    """

    _esm = script("viewer.js", "reader.js")
    result = Dict().tag(sync=True)

    def __init__(self, run: Run, film: str | Path | None = None):
        self._run = run
        self._file: io.BytesIO | None = None
        self._parts = bytearray()
        self.scores, self.evidence = pd.DataFrame(), None
        super().__init__(result={"name": "", "status": "", "sentence": "No radiograph yet."})
        if film is not None:
            self.read(Path(film).name, regular_file(Path(film)).read_bytes())

    def read(self, name: str, content: bytes) -> None:
        """Score a file's content, as if it had been dropped on the page."""
        self._file, self.evidence = io.BytesIO(content), None
        self._file.name = name
        self.scores = score_films(self._run, [self._file])
        row = self.scores.iloc[0]
        if row["status"] == "ok":
            self.evidence, _ = map_evidence(self._run, self._file)
        told = {"status": row["status"], "sentence": self._sentence(row)}
        self.result = {"name": name, "finding": self._run.finding, **told}
        self._show()

    def static_figure(self) -> Figure:
        figure = Figure((5.6, 4.2), layout="constrained")
        ax = figure.subplots()
        if self.evidence is not None:
            film = read_image(self._file, self._run.image_size)
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
        if self.result["status"] not in ("ok", "refused"):
            self.send({"kind": "nothing"})
            return
        film = read_image(self._file, min(SIDE, max(image_size(self._file))))
        evidence = b"" if self.evidence is None else self.evidence.astype("<f4").tobytes()
        self.send({"kind": "film"}, [to_bytes(film), evidence])
