"""A distillation config for one's own student and teacher."""

from .writing import NewConfig, write_config

__all__ = ['NewConfig', 'write_config']
