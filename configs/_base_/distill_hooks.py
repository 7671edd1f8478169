# For a student whose own config has hooks; others have distill_runtime.py.
custom_imports = dict(imports=['mmbckd'])
distill_hooks = [
    dict(type='DataCheckHook'),
    dict(type='IterationSeedHook'),
    dict(type='StudentCheckpointHook'),
]
