"""The nine steps: each joins rooms with the run folder, and is the thin call of one notebook."""
