"""Floor 3: calibration data, and the statistics of activations that are read off it."""
