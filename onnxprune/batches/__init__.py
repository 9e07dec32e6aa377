"""Many models in one run, each in a process of its own, with a journal that survives any kill."""
