"""Trajectories of latents: their geometry, from the Gram matrices that were stored while they were made."""
