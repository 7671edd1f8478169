_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-1k_camvid-240x320.py'

# Weights of 2 to 8 gave a trained student most, see tables/
# camvid-efficientnet-lite-ablation.yml.
model = dict(
    distiller=dict(_base_.kd, logits=dict(loss_weight=4), _delete_=True)
)
