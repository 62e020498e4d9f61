"""What is claimed to be fast: `python -m benchmarks.NAME [--quick] [--data DIR] [--out DIR]`."""
