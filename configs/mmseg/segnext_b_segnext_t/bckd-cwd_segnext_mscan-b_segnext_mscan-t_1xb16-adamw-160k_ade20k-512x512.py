_base_ = (
    './bckd_segnext_mscan-b_segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'
)

model = dict(distiller={{_base_.cwd}})
