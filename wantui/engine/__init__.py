"""Makes batches: what runs the generation and records what came of it."""
