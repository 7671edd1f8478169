_base_ = './bckd_faster-rcnn_r101_faster-rcnn_r50_fpn_2x_coco.py'

model = dict(distiller={{_base_.pkd}})
