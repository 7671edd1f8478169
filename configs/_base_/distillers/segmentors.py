# The distillation losses of the segmentation configs, with all their weights.
# The README of configs/mmseg says what they were chosen by.
# A config has BCKD by distiller={{_base_.bckd}}; merging distiller=
# {{_base_.cwd}} into such a config puts CWD beside it.

# For students with pretrained backbones: both terms on the class logits. In
# such a backbone the gradients of those on features are in the task's way.
classifier = 'decode_head.conv_seg'
bckd = dict(
    type='BCKDDistiller',
    boundary=dict(
        type='SemanticAffinityLoss',
        student=classifier,
        teacher=classifier,
        loss_weight=0.2,
    ),
    # Relations are exact at stride 8, up to crops of 512x1024. Of stride 4
    # they would cost more than all the rest: these maps are pooled.
    context=dict(
        student=classifier,
        teacher=classifier,
        max_tokens=8192,
        tau=0.1,
        loss_weight=0.6,
        # At full weight from the start it can bury a rare class for good.
        warmup=0.1,
    ),
)

# From a teacher that classifies masks by queries (Mask2Former): its class
# posteriors are brought to the form of a classifier's logits.
queries = dict(type='MaskClassLogits', source='decode_head')
bckd_queries = dict(
    bckd,
    boundary=dict(bckd['boundary'], teacher=queries),
    context=dict(bckd['context'], teacher=queries),
)

# For students trained from scratch: the boundaries of the backbone's features,
# and the relations of what the classifier sees. The student's dropout comes
# before; it drops the same channels in all pixels of an image, so that they are
# still compared by the same ones.
feature = dict(type='ModuleInputs', source=classifier)
bckd_features = dict(
    type='BCKDDistiller',
    boundary=dict(student='backbone', teacher=classifier, loss_weight=2.0),
    context=dict(
        student=feature,
        teacher=feature,
        max_tokens=8192,
        tau=0.3,
        loss_weight=4.0,
    ),
)

# MMRazor's channel-wise distillation of the logits.
cwd = dict(
    type='BCKDDistiller',
    logits=dict(type='ChannelWiseDivergence', tau=1, loss_weight=5),
)

cwd_queries = dict(cwd, logits=dict(cwd['logits'], teacher=queries))

# Per-pixel distillation of the logits (Hinton et al.).
kd = dict(type='BCKDDistiller', logits=dict())

# PKD on the levels of the EfficientNets' FPNs; it compares channels, and the
# student's 32 are led to the teacher's 64. Of five weights this was the best,
# see tables/camvid-efficientnet-lite-ablation.yml.
pkd_fpn = dict(
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
        f'loss_pkd_fpn{i}': dict(type='PKDLoss', loss_weight=0.5)
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

# MGD on the same maps, with the weight of its authors.
mgd_levels = [f'loss_mgd_fpn{i}' for i in range(4)]
mgd_fpn = dict(
    pkd_fpn,
    connectors={
        name: dict(
            type='MGDConnector', student_channels=32, teacher_channels=64
        )
        for name in mgd_levels
    },
    distill_losses={
        name: dict(type='MGDLoss', alpha_mgd=2e-5) for name in mgd_levels
    },
    loss_forward_mappings={
        name: dict(mapping, preds_S=dict(mapping['preds_S'], connector=name))
        for name, mapping in zip(
            mgd_levels, pkd_fpn['loss_forward_mappings'].values()
        )
    },
)
