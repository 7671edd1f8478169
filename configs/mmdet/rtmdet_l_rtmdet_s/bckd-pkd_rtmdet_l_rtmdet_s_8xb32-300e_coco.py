_base_ = './bckd_rtmdet_l_rtmdet_s_8xb32-300e_coco.py'

model = dict(distiller={{_base_.pkd_pafpn}})
