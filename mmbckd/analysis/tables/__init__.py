"""Tables of runs: what stands in them, what has to run, what came out."""

from .definition import Pair, Row, Table, read_table
from .jobs import Job, plan
from .summary import summarize, to_csv, to_markdown

__all__ = [
    'Job',
    'Pair',
    'Row',
    'Table',
    'plan',
    'read_table',
    'summarize',
    'to_csv',
    'to_markdown',
]
