"""The wing for doubters: how a classifier of radiographs fools its author.

Who needs it: a reader who wants to know what metadata alone can tell, what a leak would gain,
whether evidence lies where the finding is, and which labels look wrong (notebook 05)."""
