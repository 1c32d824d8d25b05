"""What is measured: one module for each collector, one protocol for all."""
