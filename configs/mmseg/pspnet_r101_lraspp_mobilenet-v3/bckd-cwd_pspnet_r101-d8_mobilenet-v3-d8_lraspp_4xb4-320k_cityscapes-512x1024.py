_base_ = './bckd_pspnet_r101-d8_mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py'

model = dict(distiller={{_base_.cwd}})
