"""The wing for many films: scores of any number of radiographs, written to a file.

Who needs it: someone with more films than memory holds, several processes or a cluster
(notebook 06, `cxr score`). A few films are scored by `cxrlib.score_films` in memory."""
