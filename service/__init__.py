"""The service. Answers requests; imports no environment."""

import os

PARENT_PID = os.getppid()
"""The process that started this one, read before the slow imports: it may end while they run."""
