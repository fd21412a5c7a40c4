"""Client operations on batches: enqueue, predict cost and ETA, render a video again, run on Slurm."""
