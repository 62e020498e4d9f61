"""How the notebooks run: plan, execution, twins, recording, and the command line."""
