"""From a graph to labels, units and groups, and the replay of a removal on the shrunk graph."""
