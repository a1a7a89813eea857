"""From radiographs to a saved run: features, heads, fine-tuning, scores and evidence."""
