_base_ = './bckd_ddrnet_23_in1k-pre_ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'

model = dict(distiller={{_base_.cwd}})
