_base_ = './bckd_mask-rcnn_swin-s-p4-w7_mask-rcnn_r50_fpn_2x_coco.py'

model = dict(
    distiller=dict(_delete_=True, type='ConfigurableDistiller', **_base_.pkd)
)
