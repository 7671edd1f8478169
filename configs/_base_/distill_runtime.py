custom_imports = dict(imports=['mmbckd'])
custom_hooks = [
    dict(type='DataCheckHook'),
    dict(type='IterationSeedHook'),
    dict(type='StudentCheckpointHook'),
]
