# Derived: upstream has SegFormer on Cityscapes and ADE20K, but not on VOC.
_base_ = [
    './segformer_mit-b0_8xb2-40k_voc12aug-512x512.py',
    '../../_base_/models/segformer_mit-b4.py',
]

model = {{_base_.segformer_mit_b4}}
