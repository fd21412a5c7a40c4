"""The engine, which renders batches: it runs the generation and records the results."""
