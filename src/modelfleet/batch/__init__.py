"""Batch scoring: a table in, the same table's predictions out, by a version as it serves.

A job is a row (`BatchService`: start, list, get, cancel, look) and a process of its own
(`python -m modelfleet.batch`), which reads and writes the tables; the model runs in a second
process, confined, in the version's environment. What is done stands in a manifest beside the
output, so that whoever runs the same command again goes on where the last one was.
"""

from modelfleet.batch.service import BatchService
from modelfleet.batch.types import Batch, Wish

__all__ = ["Batch", "BatchService", "Wish"]
