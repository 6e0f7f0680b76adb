"""What the program claims to be fast at. Run on their own; nothing here is imported by it."""
