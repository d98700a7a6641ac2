"""The model code: takes paths and tensors, returns the host's own MODEL, CLIP, VAE and tensors."""
