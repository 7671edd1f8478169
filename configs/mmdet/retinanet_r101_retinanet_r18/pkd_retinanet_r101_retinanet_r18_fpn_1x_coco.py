_base_ = './bckd_retinanet_r101_retinanet_r18_fpn_1x_coco.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_dense
    )
)
