# Affinities of the truth: two pixels are alike only in the same instance.
_base_ = './bckd_mask-rcnn_r101_mask-rcnn_r50_fpn_2x_coco.py'

model = dict(
    distiller=dict(boundary=dict(source='label', teacher='gt_instances'))
)
