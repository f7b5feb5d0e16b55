"""Training the networks of EmoRigPipeline."""
