# PKD on the FPN's levels; it compares channels, and the student's 32 are led to
# the teacher's 64.
_base_ = './bckd_fpn_efficientnet-lite2_fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py'

levels = [f'loss_pkd_fpn{i}' for i in range(4)]
fpn = dict(type='ModuleOutputs', source='neck')
model = dict(
    distiller=dict(
        _delete_=True,
        type='ConfigurableDistiller',
        student_recorders=dict(fpn=fpn),
        teacher_recorders=dict(fpn=fpn),
        connectors={
            level: dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                act_cfg=None,
            )
            for level in levels
        },
        distill_losses={
            level: dict(type='PKDLoss', loss_weight=1.0) for level in levels
        },
        loss_forward_mappings={
            level: dict(
                preds_S=dict(
                    from_student=True,
                    recorder='fpn',
                    data_idx=i,
                    connector=level,
                ),
                preds_T=dict(from_student=False, recorder='fpn', data_idx=i),
            )
            for i, level in enumerate(levels)
        },
    )
)
