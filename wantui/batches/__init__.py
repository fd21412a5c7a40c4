"""The client side of a batch: queue it, predict its cost and its end, make a video again, run it by Slurm."""
