"""What `flow doctor` looks at: whether this machine and this installation are well, and as fast as they should be."""
