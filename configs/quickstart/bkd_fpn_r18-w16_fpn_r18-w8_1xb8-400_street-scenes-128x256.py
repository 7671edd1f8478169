_base_ = './bckd_fpn_r18-w16_fpn_r18-w8_1xb8-400_street-scenes-128x256.py'

model = dict(distiller=dict(_base_.bkd, _delete_=True))
