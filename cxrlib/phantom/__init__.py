"""The wing that simulates radiographs: studies whose truth is known and that show no person.

Who needs it: someone who wants a larger bundled study, or a study with a fault built in."""
