"""What goes: criteria, constraints, costs and targets become a plan."""
