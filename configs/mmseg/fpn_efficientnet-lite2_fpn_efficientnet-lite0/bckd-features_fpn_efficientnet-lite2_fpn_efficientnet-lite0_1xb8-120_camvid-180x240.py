# Both terms on features, as for students trained from scratch, with a tenth of
# the weights.
_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-120_camvid-180x240.py'

model = dict(
    distiller=dict(
        _base_.bckd_features,
        _delete_=True,
        boundary=dict(_base_.bckd_features.boundary, loss_weight=0.2),
        context=dict(
            _base_.bckd_features.context, max_tokens=700, loss_weight=0.4
        ),
    ),
)
