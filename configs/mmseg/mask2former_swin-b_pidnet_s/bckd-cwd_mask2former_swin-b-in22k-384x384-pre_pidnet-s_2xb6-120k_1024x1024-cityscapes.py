_base_ = './bckd_mask2former_swin-b-in22k-384x384-pre_pidnet-s_2xb6-120k_1024x1024-cityscapes.py'

model = dict(distiller={{_base_.cwd_queries}})
