"""Health: is the process alive, is it ready, and how is each dependency."""
