"""What happened before? Jobs are recorded to a file, and answered from it later."""
