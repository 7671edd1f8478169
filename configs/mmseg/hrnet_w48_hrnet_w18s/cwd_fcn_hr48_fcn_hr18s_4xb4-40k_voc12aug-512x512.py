_base_ = './bckd_fcn_hr48_fcn_hr18s_4xb4-40k_voc12aug-512x512.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
