_base_ = './bckd_deeplabv3plus_r101-d8_mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
