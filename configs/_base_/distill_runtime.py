_base_ = './distill_hooks.py'

custom_hooks = {{_base_.distill_hooks}}
