# The distillation losses of the segmentation configs, with all their weights.
# The README of configs/mmseg says what they were chosen by.
# A config has BCKD by distiller={{_base_.bckd}}; merging distiller=
# {{_base_.cwd}} into such a config puts CWD beside it, in MMRazor's own form.

# What the classifier sees and what it says: the one pair of names that every
# head has. The student's dropout comes before; it drops the same channels in
# all pixels of an image, so that they are still compared by the same ones.
feature = dict(type='ModuleInputs', source='decode_head.conv_seg')
logits = dict(type='ModuleOutputs', source='decode_head.conv_seg')

bckd = dict(
    type='BCKDDistiller',
    boundary=dict(
        student='backbone', teacher='decode_head.conv_seg', loss_weight=2.0
    ),
    # Relations are exact at stride 8, up to crops of 512x1024. Of stride 4
    # they would cost more than all the rest: these maps are pooled.
    context=dict(
        student=feature,
        teacher=feature,
        max_tokens=8192,
        tau=0.3,
        loss_weight=4.0,
    ),
)

cwd = dict(
    student_recorders=dict(logits=logits),
    teacher_recorders=dict(logits=logits),
    distill_losses=dict(
        loss_cwd=dict(type='ChannelWiseDivergence', tau=1, loss_weight=5)
    ),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)

# Per-pixel distillation of logits: the Kullback-Leibler divergence, summed
# over the classes. KLDivergence takes the mean over them, so that loss_weight
# is their number.
kd = dict(
    student_recorders=dict(logits=logits),
    teacher_recorders=dict(logits=logits),
    distill_losses=dict(
        loss_kd=dict(
            type='KLDivergence', tau=1, reduction='mean', loss_weight=11
        )
    ),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)
