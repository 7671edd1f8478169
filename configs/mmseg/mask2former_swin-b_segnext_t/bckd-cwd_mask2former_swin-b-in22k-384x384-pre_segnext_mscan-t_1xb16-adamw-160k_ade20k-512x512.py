_base_ = './bckd_mask2former_swin-b-in22k-384x384-pre_segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'

model = dict(distiller={{_base_.cwd_queries}})
