"""Terms of the screens in a sentence each, for the help."""

TERMS = {
    "template": "Prompt with brackets: [red|blue] stands for one of several texts.",
    "variation": "Prompt with one choice for each bracket of the template.",
    "seed": "Number that fixes the initial noise. Variations are compared in pairs of equal seeds.",
    "sweep": "Settings that take several values within a batch, such as cfg scale 2, 4 and 8.",
    "cell": "One combination of the values of a sweep.",
    "batch": "Videos of a template, in one folder: variations x cells x seeds.",
    "mark": "Word in parentheses: attention to it can be stored or weighted.",
    "cfg scale": "Strength of the prompt (guidance); 1 is without guidance.",
    "latents": "Compressed form in which the model generates a video.",
    "step, σ": "A step removes noise from the latents. σ is the noise level: 1 is noise, 0 the video.",
    "trajectory": "Path of the latents from noise to video, the source of all metrics.",
    "place": "Do groups of videos end in different places?",
    "room": "Does one group take up more of latent space than another?",
    "path": "Do groups differ in how they get from noise to video?",
    "adj. p": "p corrected for the number of tests; up to 0.05 counts as a difference.",
    "95 %": "Interval that contains the true value in 95 of 100 repetitions.",
}
"""Terms -> what they mean, in the order in which a user meets them."""
