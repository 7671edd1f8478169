_base_ = './bckd_deeplabv3plus_r101-d8_mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
