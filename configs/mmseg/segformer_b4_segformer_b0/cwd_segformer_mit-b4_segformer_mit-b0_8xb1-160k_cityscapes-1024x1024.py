_base_ = './bckd_segformer_mit-b4_segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
