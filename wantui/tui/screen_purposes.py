"""What each screen is for, in a few words, for the help and the command palette."""

SCREEN_PURPOSES = {
    "compose": "template, settings and cost of a new batch",
    "queue": "batches and videos with progress and ETA",
    "monitor": "previews, curves and log of the running video",
    "library": "finished videos to play, select and compare",
    "analysis": "metrics and effects of trajectories",
}
