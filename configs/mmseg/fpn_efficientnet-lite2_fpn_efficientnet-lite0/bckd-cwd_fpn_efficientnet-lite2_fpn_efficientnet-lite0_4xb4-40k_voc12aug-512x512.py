_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_4xb4-40k_voc12aug-512x512.py'

model = dict(distiller={{_base_.cwd}})
