_base_ = './bckd_condinst_r50_condinst_r18_fpn_ms-poly-90k_coco_instance.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_dense
    )
)
