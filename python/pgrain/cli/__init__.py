"""The `pgrain` command: install the extension, run a private cluster, the worker, the demo."""
