"""User-level differential privacy: options, clipping, noise, sampling, and the accounting, which dp-accounting does."""
