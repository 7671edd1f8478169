_base_ = ['./fpn_r18-w8_1xb8-600_street-scenes-128x256.py']

# What the classifier sees.
feature = dict(type='ModuleInputs', source='decode_head.conv_seg')
model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_r18-w16_1xb8-3k_street-scenes-128x256.py',
    teacher_ckpt=  # noqa: E251
    '{{fileDirname}}/fpn_r18-w16_1xb8-3k_street-scenes-128x256.pth',
    distiller=dict(
        type='BCKDDistiller',
        boundary=dict(
            student='backbone',
            teacher='decode_head.conv_seg',
            loss_weight=0.5),
        context=dict(student=feature, teacher=feature, max_tokens=512)))
