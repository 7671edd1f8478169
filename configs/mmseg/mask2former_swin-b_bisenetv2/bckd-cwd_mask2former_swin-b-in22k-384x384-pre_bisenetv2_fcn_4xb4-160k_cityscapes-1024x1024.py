_base_ = './bckd_mask2former_swin-b-in22k-384x384-pre_bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py'

model = dict(distiller={{_base_.cwd_queries}})
