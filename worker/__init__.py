"""The worker: environments and learning. It knows the service through `hintwise.Client` alone."""
