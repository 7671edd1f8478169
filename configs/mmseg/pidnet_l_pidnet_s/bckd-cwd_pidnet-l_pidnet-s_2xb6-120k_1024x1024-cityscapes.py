_base_ = './bckd_pidnet-l_pidnet-s_2xb6-120k_1024x1024-cityscapes.py'

model = dict(distiller={{_base_.cwd}})
