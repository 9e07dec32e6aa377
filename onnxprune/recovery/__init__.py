"""What a removal broke is fitted away on calibration data, layer by layer."""
