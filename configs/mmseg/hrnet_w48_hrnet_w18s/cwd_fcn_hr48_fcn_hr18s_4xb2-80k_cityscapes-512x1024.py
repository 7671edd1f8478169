_base_ = './bckd_fcn_hr48_fcn_hr18s_4xb2-80k_cityscapes-512x1024.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
