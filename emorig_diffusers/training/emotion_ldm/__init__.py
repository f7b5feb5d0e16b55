"""Training the emotion latent-diffusion model (Pikoulis et al. 2023): its autoencoder, then its network."""
