"""How the notebooks run: plan, execution, twins, recording, and the command line."""

INTERRUPTED = "interrupted: the same command (without --force) goes on where this one stopped"
