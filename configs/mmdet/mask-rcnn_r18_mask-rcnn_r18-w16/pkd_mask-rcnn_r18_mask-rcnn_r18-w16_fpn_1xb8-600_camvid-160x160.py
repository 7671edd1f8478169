_base_ = (
    './bckd_mask-rcnn_r18_mask-rcnn_r18-w16_fpn_1xb8-600_camvid-160x160.py'
)

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_narrow
    )
)
