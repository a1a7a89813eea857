"""Widgets for notebooks: look through a study, move an operating point, read a film.

Each is drawn in the browser by plain JavaScript that comes with the package, and answered by the
kernel. Nothing is fetched from elsewhere, and pictures travel in messages rather than in the
widget's state, so a saved notebook stays small.
"""
