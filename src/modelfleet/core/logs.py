"""How the platform's processes log: JSON lines."""

from __future__ import annotations

import logging

import structlog


def configure() -> None:
    """With the ids of the request that a line belongs to, and tracebacks of errors as text."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
