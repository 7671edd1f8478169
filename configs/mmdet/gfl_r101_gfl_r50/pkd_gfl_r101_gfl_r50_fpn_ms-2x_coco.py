_base_ = './bckd_gfl_r101_gfl_r50_fpn_ms-2x_coco.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_dense
    )
)
