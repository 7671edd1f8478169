_base_ = './bckd_segformer_mit-b4_segformer_mit-b0_8xb2-40k_coco-stuff10k-512x512.py'

model = dict(distiller=dict(_base_.cwd, _delete_=True))
