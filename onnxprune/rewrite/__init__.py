"""From a removal to a smaller model: constants cut, attributes repaired; and zeroing of single weights."""
