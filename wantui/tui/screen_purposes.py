"""What each screen is for, in a few words, for the help and the command palette."""

SCREEN_PURPOSES = {
    "compose": "template, settings and cost of a new batch",
    "queue": "batches and videos with progress and ETA",
    "monitor": "the running video, its curves and log",
    "library": "finished videos to play and compare",
    "analysis": "metrics and effects of trajectories",
}
