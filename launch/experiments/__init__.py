"""Many runs of one experiment, each in a folder of its own."""
