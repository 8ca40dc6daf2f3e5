"""The processes of modules: start them, watch them, scale them, and keep what they write."""
