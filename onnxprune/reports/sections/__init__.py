"""The sections of pages, one in each file: a file that is added here, or named by a package, is a new one."""
