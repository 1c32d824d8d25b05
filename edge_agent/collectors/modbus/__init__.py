"""Devices that speak Modbus: which registers to ask for (`plan`), and asking (`collector`)."""
