"""Many runs from one sweep file: which there are, what they share, and which is best."""
