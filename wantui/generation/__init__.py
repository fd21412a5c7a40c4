"""The only package that loads torch and diffusers: pipelines, the denoising loop, decoding, one video from a recipe."""

import logging

for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers"):
    # Where torchao is installed, diffusers imports it, and it tells at length of what is not used here.
    logging.getLogger(_name).setLevel(logging.ERROR)
