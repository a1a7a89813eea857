"""What the widgets share: their scripts, and a static figure for where no front end is."""

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHOWN = 72  # pixels of a page per inch of a static figure
STYLE = (HERE / "style.css").read_text(encoding="utf-8")


def script(*names: str) -> str:
    """Return files of JavaScript as one module; the last one exports what anywidget asks for."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def to_bytes(pixels: np.ndarray) -> bytes:
    """Return grey values in 0..1 as little-endian 16-bit integers: the depth that windowing needs.

    >>> to_bytes(np.array([[0, 1]])).hex()
    '0000ffff'
    """
    return (pixels * 65535 + 0.5).astype("<u2").tobytes()


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
        size = dict(
            zip(("width", "height"), np.rint(figure.get_size_inches() * SHOWN), strict=True)
        )
        metadata = {**metadata, "image/png": {name: int(n) for name, n in size.items()}}
        return {**data, "text/plain": type(self).__name__, "image/png": picture}, metadata
