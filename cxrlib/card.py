"""The model card of a run, made of `run.json`."""

from cxrlib.metrics import tabulate_metrics


def model_card(facts: dict) -> str:
    """Return a model card (Mitchell et al., FAT* 2019) in Markdown, made of `run.json` alone."""
    table = tabulate_metrics(facts["metrics"])
    lines = [
        f"# {facts['finding']} against '{facts['negative']}' on frontal chest radiographs",
        "",
        "For teaching and research. Not a medical device.",
        "",
        "## Model",
        f"{facts['backbone']['name']} up to `{facts['backbone']['layer']}`, weights "
        f"`{facts['backbone']['weights']}`, films of {facts['image_size']} pixels a side, a "
        f"{facts['fit']['kind']} head ({facts['stage']}). Made {facts['made']}.",
        "",
        "## Data",
        f"Study `{facts['study']}`: {facts['data']['films']} films; patients: "
        f"{len(facts['split']['patients']['train'])} for training, "
        f"{len(facts['split']['patients']['test'])} for test. {facts['split']['rule']}.",
        "",
        "## Operating point",
        f"Positive from {facts['threshold']['value']:.3f} ({facts['threshold']['rule']}), chosen "
        f"on {facts['threshold']['chosen_on']}.",
        "",
        "## Metrics, with 95 % intervals over patients",
        "",
        "| | " + " | ".join(table) + " |",
        "|---|" + "---|" * table.shape[1],
        *(
            f"| {name} | " + " | ".join(row) + " |"
            for name, row in zip(table.index, table.to_numpy(), strict=True)
        ),
        "",
        f"Training patients are held out: {facts['fit']['held_out']}. The operating point was "
        "chosen on the same scores, so sensitivity and specificity there are a little optimistic."
        + (" Test patients were scored once for this run." if "test" in facts["metrics"] else ""),
        "",
        "## Limits",
        f"Probabilities are calibrated to a prevalence of {facts['prevalence']:.2f}, that of the "
        "training films. Labels may be wrong, and films from other sites, devices or views may "
        "score otherwise. A metric within one view shows how much of the whole the view explains.",
    ]
    return "\n".join(lines) + "\n"
