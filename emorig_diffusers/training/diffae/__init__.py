"""Training Diffusion Autoencoders and the classifiers of their codes."""
