_base_ = './bckd_solov2_r101-dcn_solov2_r50_fpn_ms-3x_coco.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_dense
    )
)
