_base_ = './bckd_mask-rcnn_r101_mask-rcnn_r18_fpn_2x_coco.py'

model = dict(
    distiller=dict(_delete_=True, type='ConfigurableDistiller', **_base_.pkd)
)
