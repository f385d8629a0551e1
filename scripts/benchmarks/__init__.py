"""What `scripts/benchmark.py` runs: contestants in processes of their own, and what is made of their seconds."""
