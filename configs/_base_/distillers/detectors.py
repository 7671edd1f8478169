# The distillation losses of the detection configs, with all their weights.
# The README of configs/mmdet says what they were chosen by.
# A config has BCKD by distiller={{_base_.bckd}}; merging distiller=
# {{_base_.pkd}} into such a config puts PKD beside it, in MMRazor's own form.

fpn = dict(type='ModuleOutputs', source='neck')

bckd = dict(
    type='BCKDDistiller',
    # The finest FPN level has learned from above what its pixels are of. The
    # README of configs/mmdet says how well it tells instances apart.
    boundary=dict(
        student='backbone',
        teacher=dict(fpn, data_idx=0),
        source='feature',
        loss_weight=2.0,
    ),
    # P2 of an image of 800x1333 has 67,200 pixels, P3 16,800. Pooled to the
    # size of P4, the relations of all levels are about 7 % of the arithmetic
    # of a step; exact, those of P3 alone would be half of it.
    context=dict(
        student='neck',
        teacher='neck',
        max_tokens=4200,
        tau=0.3,
        loss_weight=16.0,
    ),
)

# From one two-stage detector to another: context is that of the objects in a
# batch, as the box heads see them. The backbones are pretrained, so that it
# begins with little weight.
boxes = dict(type='InstanceFeatures')
bckd_boxes = dict(
    bckd,
    context=dict(
        student=boxes, teacher=boxes, tau=0.3, loss_weight=4.0, warmup=0.1
    ),
)

# From a teacher of instances by queries (Mask2Former), which has no FPN: pixels
# are alike that belong to one query, and context is that of the map, of stride
# 4 as P2, of which all masks are products.
bckd_queries = dict(
    type='BCKDDistiller',
    boundary=dict(
        student='backbone',
        teacher=dict(type='MaskQueryLogits', source='panoptic_head'),
        loss_weight=2.0,
    ),
    context=dict(
        bckd['context'],
        student=dict(fpn, data_idx=0),
        teacher=dict(fpn, source='panoptic_head.pixel_decoder', data_idx=0),
    ),
)

# As in MMRazor's configs: four levels, and another weight for dense heads.
levels = [f'loss_pkd_fpn{i}' for i in range(4)]
pkd = dict(
    student_recorders=dict(fpn=fpn),
    teacher_recorders=dict(fpn=fpn),
    distill_losses={
        level: dict(type='PKDLoss', loss_weight=6) for level in levels
    },
    loss_forward_mappings={
        level: dict(
            preds_S=dict(from_student=True, recorder='fpn', data_idx=i),
            preds_T=dict(from_student=False, recorder='fpn', data_idx=i),
        )
        for i, level in enumerate(levels)
    },
)
pkd_dense = dict(
    pkd,
    distill_losses={
        level: dict(type='PKDLoss', loss_weight=10) for level in levels
    },
)

# Where the student's FPN is narrower, its 64 channels are led to the teacher's
# 128.
pkd_narrow = dict(
    pkd,
    connectors={
        level: dict(
            type='ConvModuleConnector',
            in_channel=64,
            out_channel=128,
            act_cfg=None,
        )
        for level in levels
    },
    loss_forward_mappings={
        level: dict(mapping, preds_S=dict(mapping['preds_S'], connector=level))
        for level, mapping in pkd['loss_forward_mappings'].items()
    },
)

# Of the three levels of a PAFPN, which has as many channels as the detector is
# wide: the student's are led to the teacher's 256.
pafpn = levels[:3]
pkd_pafpn = dict(
    student_recorders=dict(fpn=fpn),
    teacher_recorders=dict(fpn=fpn),
    connectors={
        level: dict(
            type='ConvModuleConnector',
            in_channel=128,
            out_channel=256,
            act_cfg=None,
        )
        for level in pafpn
    },
    distill_losses={
        level: dict(type='PKDLoss', loss_weight=10) for level in pafpn
    },
    loss_forward_mappings={
        level: pkd_narrow['loss_forward_mappings'][level] for level in pafpn
    },
)
pkd_pafpn_tiny = dict(
    pkd_pafpn,
    connectors={
        level: dict(
            type='ConvModuleConnector',
            in_channel=96,
            out_channel=256,
            act_cfg=None,
        )
        for level in pafpn
    },
)
