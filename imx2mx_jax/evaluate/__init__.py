"""What finished runs are worth: measures (of one), tables (of many), met3r (pairs for it)."""
