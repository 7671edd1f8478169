_base_ = './bckd_pspnet_r101-d8_fast_scnn_8xb4-160k_cityscapes-512x1024.py'

model = dict(distiller={{_base_.cwd}})
