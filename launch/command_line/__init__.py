"""How commands are read, refused and interrupted."""
