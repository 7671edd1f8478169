_base_ = ['./fpn_r18-w32_1xb8-1k_camvid-160x240.py']

# What the classifier sees.
feature = dict(type='ModuleInputs', source='decode_head.conv_seg')
model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_r50_1xb8-1.5k_camvid-160x240.py',
    teacher_ckpt='work_dirs/fpn_r50_1xb8-1.5k_camvid-160x240/iter_1500.pth',
    distiller=dict(
        type='BCKDDistiller',
        boundary=dict(
            student='backbone',
            teacher='decode_head.conv_seg',
            loss_weight=0.5),
        context=dict(
            student=feature, teacher=feature, max_tokens=600,
            loss_weight=10.0)))
