# Affinities of the truth: two pixels are alike only in the same instance.
_base_ = (
    './bckd_mask-rcnn_r18_mask-rcnn_r18-w16_fpn_1xb8-600_camvid-160x160.py'
)

model = dict(
    distiller=dict(boundary=dict(source='label', teacher='gt_instances'))
)
