"""`run.json` as tests change it."""

import json


def edit(folder, *keys, value):
    """Change one value in `run.json`, as a slip of an editor would."""
    place = facts = json.loads((folder / "run.json").read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / "run.json").write_text(json.dumps(facts))
