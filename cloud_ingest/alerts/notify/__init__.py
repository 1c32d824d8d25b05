"""Ways to tell people and programs of an alert: one file each, behind one interface."""
