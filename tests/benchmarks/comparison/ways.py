"""The ways to make features that are compared."""

from dataclasses import dataclass, replace

FINDINGS = ["Cardiomegaly", "Atelectasis", "Effusion"]
MORE = ["Infiltrate", "Pneumonia", "Mass", "Nodule", "Pneumothorax"]  # for averaging alone
SEEDS = range(3)
# Everything that one pass over the films keeps of each network: layer and cells a side.
KEPT = {
    "InceptionV3": [("mixed4", 5), ("mixed6", 5), ("mixed6", 7), ("mixed8", 1), ("mixed8", 3)]
    + [("mixed8", 5), ("mixed8", 7), ("mixed10", 5)],
    "EfficientNetLite2": [("stage4", 5), ("stage5", 1), ("stage5", 3), ("stage5", 5)]
    + [("stage5", 7)],
}
CUT = {"InceptionV3": "mixed8", "EfficientNetLite2": "stage5"}
THORAX = {"as it is": ["as it is"], "common": ["common"], "both": ["as it is", "common"]}
TOLD = {"as it is": [], "common": ["common thorax"], "both": ["beside common thorax"]}
CHANNELS = {"mixed4": 768, "mixed6": 768, "mixed8": 1280, "mixed10": 2048, "stage4": 88} | {
    "stage5": 120
}


@dataclass(frozen=True)
class Way:
    """How features are made. `thorax` is 'as it is', 'common' (brought to it) or 'both'."""

    network: str = "InceptionV3"
    size: int = 399
    layer: str = "mixed8"
    grid: int = 5
    precision: str = "full"
    thorax: str = "as it is"

    def __str__(self):
        told = [self.network, f"{self.size} px", self.layer, f"{self.grid} x {self.grid}"]
        told += ["8 bits"] * (self.precision == "fast")
        return ", ".join(told + TOLD[self.thorax])


DEFAULT = Way()
LITE = Way("EfficientNetLite2", layer="stage5")
# What shares a pass over the films stands together.
WAYS = [
    LITE,
    *(replace(LITE, grid=grid) for grid in (1, 3, 7)),
    replace(LITE, layer="stage4"),
    DEFAULT,
    *(replace(DEFAULT, layer=layer) for layer in ("mixed4", "mixed6", "mixed10")),
    replace(DEFAULT, grid=1),
    replace(DEFAULT, thorax="common"),
    replace(DEFAULT, thorax="both"),
    replace(DEFAULT, grid=3),
    replace(DEFAULT, grid=7),
    replace(DEFAULT, layer="mixed6", grid=7),
    replace(LITE, thorax="common"),
    replace(LITE, thorax="both"),
    replace(DEFAULT, precision="fast"),
    replace(DEFAULT, size=224),
    replace(DEFAULT, size=299),
    *(replace(LITE, size=size) for size in (224, 512)),
    replace(LITE, precision="fast"),
]
AVERAGED = [DEFAULT, LITE]


def sources(way: Way) -> list[Way]:
    """Return the ways, with all parts kept, whose features are put side by side."""
    base = replace(way, layer=CUT[way.network], grid=5)
    return [replace(base, thorax=thorax) for thorax in THORAX[way.thorax]]
