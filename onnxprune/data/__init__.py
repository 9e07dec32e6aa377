"""Calibration and validation data, and the moments of activations that are read off them."""
