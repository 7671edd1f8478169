_base_ = [
    './condinst_r18_fpn_ms-poly-90k_coco_instance.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    # The one CondInst that upstream publishes.
    teacher='mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/condinst/condinst_r50_fpn_ms-poly-90k_coco_instance/condinst_r50_fpn_ms-poly-90k_coco_instance_20221129_125223-4c186406.pth',
    distiller={{_base_.bckd}},
)
