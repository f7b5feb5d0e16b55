from emorig_diffusers.models.head import HeadModel
