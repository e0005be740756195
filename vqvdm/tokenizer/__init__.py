"""Stage one: the 3D VQGAN that turns pixels into latents and back."""
