"""`python -m worker record`: one episode as a film, with what the policy read and how likely each action was.

checkpoint ──▶ record ──▶ episode (a moment per step) ──▶ picture (frame and panel) ──▶ film (GIF or MP4)
"""
