_base_ = (
    './bckd_stdc2_in1k-pre_stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py'
)

model = dict(distiller={{_base_.cwd}})
