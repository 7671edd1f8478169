"""Training runs read, compared and written down: tables and reports."""

from .runs import Log, Run, read_log, read_run

__all__ = ['Log', 'Run', 'read_log', 'read_run']
