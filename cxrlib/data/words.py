"""The words of `words.toml`: what is understood in tables, file names and headers."""

import tomllib
from pathlib import Path

WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))


def meanings(kind: str) -> dict[str, str]:
    """Return what each word of one kind means."""
    return {word: name for name, words in WORDS[kind].items() for word in words.split()}
