_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_4xb2-80k_cityscapes-512x1024.py'

model = dict(distiller={{_base_.cwd}})
