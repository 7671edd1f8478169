from .bckd_distiller import BCKDDistiller

__all__ = ['BCKDDistiller']
