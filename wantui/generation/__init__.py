"""Generation of one video from a recipe with torch and diffusers: pipelines, the denoising loop, decoding."""

import logging

from wantui.environment import check_working_folder

check_working_folder()

for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers"):
    # diffusers imports torchao if it is installed, which logs many warnings about unused features.
    logging.getLogger(_name).setLevel(logging.ERROR)
