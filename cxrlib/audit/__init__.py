"""The wing for doubters: how a classifier of radiographs fools its author.

Who needs it: a reader who asks whether a good AUC was earned. `report` audits the predictions of
any model, or a run, into one page; `questions` are what it asks, `table` how it reads. `metadata`
measures what can be told without a look, `leakage` what patients on both sides would gain,
`localise` and `perturb` whether the evidence lies where the finding is, `mislabels` which labels
look wrong. `elsewhere` compares a second study with home, `recalibrate` fits a run to it.
`strangers` makes images that should be refused.
"""
