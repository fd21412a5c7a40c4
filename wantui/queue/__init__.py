"""The durable queue: batches and their videos in SQLite, claims, and the log of what happened."""
