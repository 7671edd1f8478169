_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-120_camvid-180x240.py'

model = dict(distiller=dict(_base_.mgd_fpn, _delete_=True))
