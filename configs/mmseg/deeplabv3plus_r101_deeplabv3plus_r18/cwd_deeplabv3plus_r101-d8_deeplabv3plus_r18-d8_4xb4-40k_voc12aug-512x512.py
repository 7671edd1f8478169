_base_ = './bckd_deeplabv3plus_r101-d8_deeplabv3plus_r18-d8_4xb4-40k_voc12aug-512x512.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
