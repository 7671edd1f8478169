_base_ = './bckd_rtmdet-ins_l_rtmdet-ins_tiny_8xb32-300e_coco.py'

model = dict(distiller={{_base_.pkd_pafpn_tiny}})
