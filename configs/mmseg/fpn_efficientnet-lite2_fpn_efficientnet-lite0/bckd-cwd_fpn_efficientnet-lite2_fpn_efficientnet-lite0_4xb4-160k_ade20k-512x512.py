_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_4xb4-160k_ade20k-512x512.py'

model = dict(distiller={{_base_.cwd}})
