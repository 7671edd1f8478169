_base_ = './bckd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-120x160.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
