"""What the widgets share: their scripts, and a static figure for where no front end is."""

import base64
import io
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import anywidget
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from traitlets import Bool, Enum, Float, Tuple, observe

from cxrlib.data.dicom import read_spacing
from cxrlib.data.files import is_dicom
from cxrlib.plots.style import EVIDENCE

HERE = Path(__file__).parent
SHOWN = 72  # pixels of a page per inch of a static figure
STYLE = (HERE / "style.css").read_text(encoding="utf-8")
HEART, CHEST = (0.4, 0.64, 0.62), (0.2, 0.8, 0.7)  # the lines before a reader drags them


def script(*names: str) -> str:
    """Return files of JavaScript as one module; the last one exports what anywidget asks for."""
    files = [(HERE / name).read_text(encoding="utf-8") for name in names]
    return "\n".join([f"const EVIDENCE = {EVIDENCE};", *files])


def to_bytes(pixels: np.ndarray) -> bytes:
    """Return grey values in 0..1 as little-endian 16-bit integers, deep enough for windowing."""
    return (pixels * 65535 + 0.5).astype("<u2").tobytes()


def read_truth(folder: Path) -> dict[str, dict]:
    """Return what the simulator knows of its films, by file name; of another study, nothing."""
    path = folder / "truth.csv"
    if not (path.is_file() and (folder / "phantom.json").is_file()):
        return {}
    known = ["ctr", "pixel_mm"]
    return pd.read_csv(path, index_col="filename").filter(known).to_dict("index")


def spacing_of(path: str | BinaryIO) -> float | None:
    """Return mm per pixel where a DICOM header states it, else None."""
    with suppress(OSError, ValueError):
        return read_spacing(path) if is_dicom(path) else None
    return None


class Widget(anywidget.AnyWidget):
    """A widget that also carries a figure, for GitHub, nbviewer and pages without a kernel.

    Each one answers the messages of its page in `_answer(self, _, message, buffers)`.
    """

    _css = STYLE

    def __init__(self, **traits):
        super().__init__(**traits)
        self.on_msg(self._answer)

    def static_figure(self) -> Figure:
        """Return what the widget shows now as a figure."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        png, figure = io.BytesIO(), self.static_figure()
        figure.savefig(png, format="png", dpi=2 * SHOWN)  # sharp where a screen has fine pixels
        picture = base64.b64encode(png.getvalue()).decode("ascii")
        width, height = (round(SHOWN * inches) for inches in figure.get_size_inches())
        metadata = {**metadata, "image/png": {"width": width, "height": height}}
        return {**data, "text/plain": type(self).__name__, "image/png": picture}, metadata


class FilmWidget(Widget):
    """A widget with a view of one radiograph; what the page shows of it are traits.

    Places and lengths are shares of the side of the square that the film is padded to.

    Attributes
    ----------
    window, level : float in 0..1, range of the grey values shown, and the one in its middle
    invert : bool
    zoom : float, 1 where the film fits the view; centre : (x, y) of what is shown
    tool : 'move' or 'window', what dragging does
    box_opacity, map_opacity : float in 0..1, of boxes and of the map of evidence
    measuring : bool, whether the lines are shown
    heart, chest : (left, right, height), two level lines that a reader drags
    ratio : float, heart over chest, the cardiothoracic ratio; None until both lines were dragged
    truth_shown : bool, whether the page shows the true ratio of a simulated film
    """

    window = Float(1, min=0.01, max=1).tag(sync=True)
    level = Float(0.5, min=0, max=1).tag(sync=True)
    invert = Bool().tag(sync=True)
    zoom = Float(1, min=0.25, max=16).tag(sync=True)
    centre = Tuple(Float(), Float(), default_value=(0.5, 0.5)).tag(sync=True)
    tool = Enum(["move", "window"], "move").tag(sync=True)
    box_opacity = Float(1, min=0, max=1).tag(sync=True)
    map_opacity = Float(0, min=0, max=1).tag(sync=True)
    measuring = Bool().tag(sync=True)
    heart = Tuple(Float(), Float(), Float(), default_value=HEART).tag(sync=True)
    chest = Tuple(Float(), Float(), Float(), default_value=CHEST).tag(sync=True)
    truth_shown = Bool().tag(sync=True)
    ratio = Float(None, allow_none=True).tag(sync=True)

    @observe("measuring", "heart", "chest")
    def _measure(self, _=None) -> None:
        dragged = self.measuring and self.heart != HEART and self.chest != CHEST
        heart, chest = (abs(line[1] - line[0]) for line in (self.heart, self.chest))
        self.ratio = heart / chest if dragged and chest else None

    def _lay_lines(self) -> None:
        """Put the lines where they lie before they are dragged, as for another film."""
        self.heart, self.chest, self.truth_shown = HEART, CHEST, False
