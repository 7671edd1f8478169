_base_ = './bckd-features_fpn_efficientnet-lite2_ddrnet_23-slim_1xb8-1k_camvid-240x320.py'

model = dict(distiller={{_base_.cwd}})
