# BCKD beside distillation of the logits.
_base_ = './bckd_fpn_r18-w16_fpn_r18-w8_1xb8-400_street-scenes-128x256.py'

model = dict(distiller={{_base_.bkd}})
