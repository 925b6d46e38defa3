"""The sidecar process: serves sessions, runs jobs, owns the device."""
