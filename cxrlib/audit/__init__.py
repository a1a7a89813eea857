"""The wing for doubters: how a classifier of radiographs fools its author.

Who needs it: a reader who asks whether a good AUC was earned. `shortcuts` measures what metadata
tells and what a leak would gain, `localise` and `perturb` whether the evidence lies where the
finding is, `mislabels` which labels look wrong. `strangers` makes images that should be refused."""
