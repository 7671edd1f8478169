_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0-s16_1xb8-1k_camvid-240x320.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
