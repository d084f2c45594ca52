"""The long proofs: what takes minutes to measure, so no test. Each module has `run` and `table`."""
