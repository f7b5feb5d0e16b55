from emorig_diffusers.models.unet import RigUNet
