_base_ = './bckd_gfl_r101_gfl_r50_fpn_ms-2x_coco.py'

model = dict(distiller={{_base_.pkd_dense}})
