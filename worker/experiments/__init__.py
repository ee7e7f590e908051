"""`python -m worker sweep`: every condition of an experiment on every seed.

experiment.toml ──▶ experiment ──▶ sweep ──▶ child_run: python -m worker train ──▶ results.jsonl
                    (settings)     (which,      (one process, its limits)           (one line per
                                    when)                                            finished run)
"""
