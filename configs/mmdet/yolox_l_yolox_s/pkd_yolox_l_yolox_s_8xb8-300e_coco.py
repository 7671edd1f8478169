_base_ = './bckd_yolox_l_yolox_s_8xb8-300e_coco.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_pafpn
    )
)
