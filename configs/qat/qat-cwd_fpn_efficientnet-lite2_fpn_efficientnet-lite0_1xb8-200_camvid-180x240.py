_base_ = './qat-bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-200_camvid-180x240.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
