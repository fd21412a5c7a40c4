"""The worker process, which loads torch: claim videos, generate them, and record the results."""
