"""Chest radiographs from a folder to a binary classifier with numbers that can be trusted.

For teaching and research. Not a medical device.
"""

from importlib.metadata import version

__version__ = version("cxrlib")


def versions() -> dict[str, str]:
    """Return the versions that decide a result, by package name."""
    names = ("cxrlib", "tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow")
    return {name: version(name) for name in names}
