"""Evidence: from prediction records in shared memory to states that others judge by.

The collector (`python -m modelfleet.telemetry.main`) tails the segments of all workers, counts
windows, judge ticks and shadow pairs, seals records into Parquet, joins outcomes, and serves
/metrics. Everybody else reads through `EvidenceReader`: `ticks`, `pair_ticks`, `windows`,
`history`, `totals`, `outcomes`, `recent_predictions`.
"""
