_base_ = (
    './bckd_segformer_mit-b5_bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py'
)

model = dict(distiller={{_base_.cwd}})
