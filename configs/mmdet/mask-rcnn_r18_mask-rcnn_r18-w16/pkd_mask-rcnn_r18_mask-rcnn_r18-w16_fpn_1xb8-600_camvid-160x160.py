# PKD compares channels: the student's 64 are led to the teacher's 128.
_base_ = (
    './bckd_mask-rcnn_r18_mask-rcnn_r18-w16_fpn_1xb8-600_camvid-160x160.py'
)

model = dict(
    distiller=dict(
        _delete_=True,
        type='ConfigurableDistiller',
        connectors={
            level: dict(
                type='ConvModuleConnector',
                in_channel=64,
                out_channel=128,
                act_cfg=None,
            )
            for level in _base_.pkd.loss_forward_mappings
        },
        **dict(
            _base_.pkd,
            loss_forward_mappings={
                level: dict(
                    mapping, preds_S=dict(mapping.preds_S, connector=level)
                )
                for level, mapping in _base_.pkd.loss_forward_mappings.items()
            },
        ),
    )
)
