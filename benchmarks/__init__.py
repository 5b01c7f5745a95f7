"""What things cost, measured: each file here runs by itself and prints a table."""
