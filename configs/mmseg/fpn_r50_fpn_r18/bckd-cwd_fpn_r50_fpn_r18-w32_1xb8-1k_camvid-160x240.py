# BCKD beside another distillation loss, in MMRazor's own form.
_base_ = ['./bckd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240.py']

logits = dict(type='ModuleOutputs', source='decode_head.conv_seg')
model = dict(
    distiller=dict(
        student_recorders=dict(logits=logits),
        teacher_recorders=dict(logits=logits),
        distill_losses=dict(
            loss_cwd=dict(type='ChannelWiseDivergence', tau=1, loss_weight=5)),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits')))))
