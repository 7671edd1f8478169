# Trained from scratch: BCKD on features, not on class logits.
_base_ = (
    './bckd_fpn_efficientnet-lite2_ddrnet_23-slim_1xb8-1k_camvid-240x320.py'
)

model = dict(
    distiller=dict(
        _base_.bckd_features,
        _delete_=True,
        # In training DDRNet also returns what its auxiliary head reads.
        boundary=dict(_base_.bckd_features.boundary, in_channels=[64, 128]),
    )
)
