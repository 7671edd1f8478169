_base_ = './bckd_mask-rcnn_efficientnet-lite2_mask-rcnn_efficientnet-lite0_fpn_1xb4-1k_camvid-192x256.py'

model = dict(distiller=dict(_delete_=True, **_base_.bckd_boxes))
