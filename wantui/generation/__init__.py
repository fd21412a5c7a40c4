"""The only package that loads torch and diffusers: pipelines, the denoising loop, decoding, one video from a recipe."""
