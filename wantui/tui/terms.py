"""Steps of a run, and terms of the screens, in a short sentence each, for the help: in 80 columns none is cut."""

RUN_STEPS = {
    "1 Compose": "Write a template; F5 queues its videos.",
    "2 Queue": "Videos are generated, even after you quit.",
    "3 Monitor": "Watch the running video form.",
    "4 Library": "Play finished videos and compare them.",
    "5 Analysis": "Compare variations by their trajectories.",
}
"""Screens in the order of a run -> what happens there."""

TERMS = {
    "template": "Prompt whose [red|blue] stands for either word.",
    "variation": "Prompt with one choice for each bracket.",
    "seed": "Fixes the initial noise; equal seeds form pairs.",
    "sweep": "Settings with several values: cfg_scale=2,4,8.",
    "cell": "One combination of the values of a sweep.",
    "batch": "Videos of a template: variations x cells x seeds.",
    "mark": "(word): its attention can be stored or weighted.",
    "cfg scale": "Strength of the prompt; 1 is without guidance.",
    "latents": "Compressed form in which a video is generated.",
    "step, σ": "Lowers the noise level σ; step 0 is the first.",
    "trajectory": "Path of the latents from noise to video.",
    "place": "Do groups of videos end in different places?",
    "room": "Does a group take up more of latent space?",
    "path": "Do groups differ on the way to the video?",
    "adj. p": "p corrected for all tests; a finding up to 0.05.",
    "95 %": "Interval with the true value in 95 of 100 cases.",
}
"""Terms -> what they mean, in the order in which a user meets them."""
