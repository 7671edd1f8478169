_base_ = './bckd_mask-rcnn_efficientnet-lite2_mask-rcnn_efficientnet-lite0_fpn_1xb8-1k_camvid-240x320.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_narrow
    )
)
