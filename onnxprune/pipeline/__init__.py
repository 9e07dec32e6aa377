"""The stages in their order: what the functions of the package and the command line call."""
