_base_ = [
    './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-120_camvid-180x240.py',
    '../../_base_/distillers/pkd_fpn.py',
]

model = dict(distiller=dict(_base_.pkd, _delete_=True))
