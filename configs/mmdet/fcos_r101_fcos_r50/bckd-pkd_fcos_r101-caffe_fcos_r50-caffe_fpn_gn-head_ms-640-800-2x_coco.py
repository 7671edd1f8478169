_base_ = (
    './bckd_fcos_r101-caffe_fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'
)

model = dict(distiller={{_base_.pkd_dense}})
