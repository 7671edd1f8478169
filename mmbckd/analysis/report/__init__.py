"""A page that compares training runs: one HTML file, no network needed."""

from .page import write_report

__all__ = ['write_report']
