"""Reports for people and for other programs: pages, tables, JUnit, and the comparison of two runs."""
