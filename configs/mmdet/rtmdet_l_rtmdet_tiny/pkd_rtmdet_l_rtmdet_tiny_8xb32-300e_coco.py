_base_ = './bckd_rtmdet_l_rtmdet_tiny_8xb32-300e_coco.py'

model = dict(
    distiller=dict(
        _delete_=True, type='ConfigurableDistiller', **_base_.pkd_pafpn_tiny
    )
)
