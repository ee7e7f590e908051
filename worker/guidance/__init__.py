"""Language in the loop of a training: hints beside observations, and reward for following them.

environment ──▶ State ──▶ hint in force ──▶ /act with the hint, or without where it is dropped
                               │
                               └─────────▶ /reward for what the action did with it
"""
