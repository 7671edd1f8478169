# PKD on the levels of two FPNs; it compares channels, and the student's 32 are
# led to the teacher's 64.
pkd = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    connectors={
        f'loss_pkd_fpn{i}': dict(
            type='ConvModuleConnector',
            in_channel=32,
            out_channel=64,
            act_cfg=None,
        )
        for i in range(4)
    },
    distill_losses={
        f'loss_pkd_fpn{i}': dict(type='PKDLoss', loss_weight=1.0)
        for i in range(4)
    },
    loss_forward_mappings={
        f'loss_pkd_fpn{i}': dict(
            preds_S=dict(
                from_student=True,
                recorder='fpn',
                data_idx=i,
                connector=f'loss_pkd_fpn{i}',
            ),
            preds_T=dict(from_student=False, recorder='fpn', data_idx=i),
        )
        for i in range(4)
    },
)
