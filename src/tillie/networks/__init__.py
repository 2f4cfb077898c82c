"""What carries sealed elements from one device to another."""
