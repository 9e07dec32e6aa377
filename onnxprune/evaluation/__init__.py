"""What a model is worth: latency, drift, metrics on validation data."""
