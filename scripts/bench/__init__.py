"""The parts of `scripts/bench.py`: a stub of S3, adapters, phases, bars, and what shows them."""
