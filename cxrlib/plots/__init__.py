"""One function per figure; each draws on `ax`, or on a new figure, and returns what it drew on."""
