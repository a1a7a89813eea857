"""Chest radiographs from a folder to a binary classifier with numbers that can be trusted.

For teaching and research. Not a medical device.

`import cxrlib as cxr` gives the core: studies, features, heads, runs, scores, metrics, plots and
widgets. A film is one radiograph. Each name is loaded when it is used. Four wings are imported by
name: `cxrlib.audit`, `cxrlib.scoring`, `cxrlib.deploy` and `cxrlib.phantom`.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("cxrlib")


def versions() -> dict[str, str]:
    """Return the versions that decide a result, by package name.

    >>> import cxrlib as cxr
    >>> sorted(cxr.versions())[:3]
    ['cxrlib', 'keras', 'numpy']
    """
    names = ("cxrlib", "tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow")
    return {name: version(name) for name in names}
