"""The networks: large teachers, the phone-sized student, and weight files read as plain data."""
